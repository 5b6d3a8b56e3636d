"""The requests of an engine, and whose turn it is."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from reelray.proto.layout import Place
from reelray.proto.request import RequestId
from reelray.proto.step_plan import DecodeStep, Delivery, ForkStep, SnapshotStep, WindowStep
from reelray.scheduler.batching import gather
from reelray.scheduler.lanes import PATIENCE
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.pace import Paces
from reelray.scheduler.resting import comes_back, list_fetches, list_parks
from reelray.scheduler.rollout import Phase, Rollout


class Roster:
    """Requests in order of arrival.

    Args:
        limits: How many the ranks hold at once.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self.rollouts: dict[RequestId, Rollout] = {}
        self.plans = 0  # of whichever crew
        self._paces = Paces()
        self._turn = 0  # grows with every window and piece, which so have an order within a step too
        self._limits = limits

    @property
    def waits_for_decode(self) -> bool:
        """Whether any request has clean latents that are not decoded."""
        return any(rollout.waits_for_decode for rollout in self.rollouts.values())

    @property
    def waits_for_late(self) -> bool:
        """Whether a piece is late, if only of a request that has ended."""
        return any(rollout.is_late for rollout in self.rollouts.values())

    def take_admits(self) -> list[Rollout]:
        """Requests that the ranks are to take in now."""
        queued = [r for r in self.rollouts.values() if r.phase is Phase.QUEUED and not _stays_away(r)]
        coming = sum(comes_back(r) and not r.waits_for_room for r in self.rollouts.values())
        admitted = queued[: max(0, self.places_left - coming)]
        for rollout in admitted:
            rollout.phase, rollout.rests = Phase.ADMITTED, False
        return admitted

    def at_work(self) -> list[Rollout]:
        """Requests on the ranks, or about to be, that had something to do not long ago."""
        held = [r for r in self.rollouts.values() if r.phase in {Phase.ADMITTED, Phase.RUNNING}]
        for rollout in held:
            if rollout.phase is Phase.ADMITTED or rollout.has_work or comes_back(rollout):
                rollout.worked_at = self.plans
        patient = [rollout for rollout in held if self.plans - rollout.worked_at < PATIENCE]
        return [rollout for rollout in patient if not rollout.rests or rollout.has_work or comes_back(rollout)]

    def list_rests(self, moved: Collection[RequestId] = (), *, frees: bool) -> dict[str, Any]:
        """What the next plan says of streams that rest, by its fields; see `reelray/scheduler/resting.py`.

        Args:
            moved: Requests that it moves.
            frees: Whether it releases requests.
        """
        rollouts = self.rollouts.values()
        parks = list_parks(rollouts, moved)
        most, frees = self.places_left + len(parks), frees or bool(parks)
        return {"parks": parks, "fetches": list_fetches(rollouts, moved, most=most, frees=frees)}

    @property
    def places_left(self) -> int:
        """Requests that the ranks may take in; those that rest take no place."""
        held = [r for r in self.rollouts.values() if r.phase is not Phase.QUEUED and not r.rests]
        return self._limits.requests - len(held)

    def pick_windows(self, places: Sequence[Place], now_s: float, *, decodes: bool) -> tuple[WindowStep, ...]:
        """For every lane, the window of that request of its own whose turn it is; of several where they go together.

        A stream that remembers keeps its turn until its chunk is over, so that its memory is laid out once per chunk
        and not for every step. Those that share forwards keep it together, and each has a place for its memory.

        Args:
            places: The lanes.
            now_s: Seconds on the caller's clock.
            decodes: Whether their ranks decode too, in the same steps.
        """
        next_of = Rollout.next_window_after_frames if decodes else Rollout.next_window
        self._paces.follow(self.rollouts, now_s)
        picked: list[WindowStep] = []
        for place in places:
            here = self._here(place, "window_turn")
            if not any(one.keeps_turn and one.next_window() is not None for one in here):
                here = self._paces.order(here, now_s, place.lane)
            keepers = [one for one in here if one.keeps_turn and one.next_window() is not None]
            if place.layout.pipe > 1:
                ready = [(one, window) for one in keepers[:1] or here if (window := next_of(one)) is not None]
                going = _who_goes_together(ready, place.layout.pipe)
            else:
                going = gather(keepers, [one for one in here if one not in keepers], next_of)
            for rollout, _ in going:
                self._turn += 1
                rollout.window_turn = self._turn
            arrived = {request_id: number for number, request_id in enumerate(self.rollouts)}
            if place.layout.pipe == 1:  # the same windows in the same order: what was recorded of them serves again
                going = sorted(going, key=lambda one: arrived[one[1].request_id])
            picked += [window for _, window in going]
        return tuple(picked)

    def pick_decodes(self, places: Sequence[Place]) -> tuple[DecodeStep, ...]:
        """For every lane, the piece of that request of its own whose turn it is."""
        picked: list[DecodeStep] = []
        for place in places:
            here = self._here(place, "decode_turn")
            for rollout, piece in [(one, work) for one in here if (work := one.next_decode()) is not None][:1]:
                self._turn += 1
                rollout.decode_turn = self._turn
                picked.append(piece)
        return tuple(picked)

    def pick_delivered(self) -> tuple[DecodeStep, ...]:
        """The piece whose turn it is, if the ranks that only decode have it."""
        for rollout in sorted(self.rollouts.values(), key=attrgetter("decode_turn")):
            work = rollout.next_decode()
            if work is not None:
                if not rollout.is_delivered(work):
                    return ()  # the next plans bring it; others would pass it by again and again
                self._turn += 1
                rollout.decode_turn = self._turn
                return (work,)
        return ()

    def deliver(self) -> tuple[Delivery, ...]:
        """Clean chunks that the ranks which only decode do not have yet; see `Rollout.deliver`."""
        return tuple(delivery for rollout in self.rollouts.values() for delivery in rollout.deliver())

    @property
    def has_put_downs(self) -> bool:
        """Whether a snapshot or a fork is due."""
        return any(_is_copied(r) and r.phase is Phase.RUNNING for r in self.rollouts.values())

    def pick_forks(self) -> tuple[ForkStep, ...]:
        """Forks that are due; they are not from here on."""
        steps = []
        for request_id, rollout in self.rollouts.items():
            if rollout.fork is not None and rollout.phase is Phase.RUNNING:
                request = replace(rollout.request, request_id=rollout.fork)
                steps.append(ForkStep(source=request_id, request=request))
                rollout.fork = None
        return tuple(steps)

    def pick_put_downs(self) -> tuple[SnapshotStep, ...]:
        """Snapshots that are due; they are not from here on."""
        steps = []
        for request_id, rollout in self.rollouts.items():
            if rollout.put_down is not None and rollout.phase is Phase.RUNNING:
                steps.append(SnapshotStep(request_id=request_id, kind=rollout.put_down))
                rollout.put_down = None
        return tuple(steps)

    def list_commits(self, windows: Sequence[WindowStep], now_s: float) -> tuple[RequestId, ...]:
        """Requests whose state should be written down once these windows are moved."""
        return tuple(w.request_id for w in windows if self.rollouts[w.request_id].wants_commit(w, now_s))

    def list_decode_commits(self, decodes: Sequence[DecodeStep]) -> tuple[RequestId, ...]:
        """Requests whose decoder should be written down once these pieces are decoded, by ranks that only decode."""
        if self._limits.commit_s is None:
            return ()
        return tuple(d.request_id for d in decodes if not d.last and _ends_chunk(self.rollouts[d.request_id], d))

    def _here(self, place: Place, turn: str) -> list[Rollout]:
        """Requests of a lane, whoever has waited longest first."""
        return sorted((one for one in self.rollouts.values() if one.place == place), key=attrgetter(turn))


def _is_copied(rollout: Rollout) -> bool:
    """Whether it is to be put down or forked by the next plan."""
    return rollout.put_down is not None or rollout.fork is not None


def _ends_chunk(rollout: Rollout, decode: DecodeStep) -> bool:
    end = decode.first_latent_frame + decode.latent_frames
    return any(chunk.end == end for chunk in rollout.chunks)


def _stays_away(rollout: Rollout) -> bool:
    """Whether it had given its room away when the ranks were lost, and nobody asks for it yet."""
    return rollout.rests and rollout.paused and not _is_copied(rollout)


def _who_goes_together(ready: Sequence[tuple[Rollout, WindowStep]], most: int) -> Sequence[tuple[Rollout, WindowStep]]:
    """The first, and those behind it that may follow it through the layers."""
    if not ready or ready[0][0].suspect:
        return ready[:1]
    return [one for one in ready if not one[0].suspect][:most]
