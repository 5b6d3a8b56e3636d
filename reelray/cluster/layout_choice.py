"""How the ranks of a render share its video: as the user says, or as the plan finds fastest."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral

from reelray.cluster.calibration import load_calibration
from reelray.cluster.decode_choice import (
    check_room,
    choose_decode,
    explain_decode,
    list_choices,
    read_decode_ranks,
)
from reelray.cluster.gpu_count import runs_on_gpus, usable_gpus
from reelray.cluster.machine import memory_bytes
from reelray.cluster.memory_check import SMALL_BYTES
from reelray.cluster.plan_request import count_guided_steps
from reelray.cluster.render import RenderJob
from reelray.cluster.residency_choice import check_host, check_possible, choose_residency, explain_residency
from reelray.proto.errors import InputError, ResourceError, SizeError, UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching, check_patched_layout
from reelray.proto.placement import Lending
from reelray.proto.residency import Blocks, Residency
from reelray.scheduler.plan.choice import best_residency, choose
from reelray.scheduler.plan.explain import GIB
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.legality import check_layout, check_patching, list_lanes, list_patched_lanes
from reelray.scheduler.plan.lending_plan import plan_lending, with_lending
from reelray.scheduler.plan.machine import MAX_GPUS, Machine
from reelray.scheduler.plan.prediction import Prediction
from reelray.scheduler.plan.residency import ANY, ResidencyWish, residencies_for
from reelray.workers.models.registry import measure_checkpoint

UNWIRED = {
    "replica": "renders several videos at once, and this is one",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenLayout:
    """How ranks share a video, where its weights are, and why; no reason where nothing was to be chosen."""

    layout: Layout = field(default_factory=Layout)
    decode_ranks: int = 0
    lending: Lending | None = None
    residency: Residency = field(default_factory=Residency)
    reason: str | None = None


def choose_layout(
    job: RenderJob,
    device: str,
    *,
    gpus: int | None,
    layout: str | Layout | None,
    wish: ResidencyWish = ANY,
    decode_ranks: int | str | None = None,
) -> ChosenLayout:
    """Choose the layout of a render before anything is loaded.

    Args:
        job: What is rendered.
        device: ``auto``, ``cpu`` or ``cuda``.
        gpus: How many ranks there may be, those that decode included; None takes as many as was asked for otherwise.
        layout: How those that denoise share the video; None lets the plan choose.
        wish: Where the weights are; what it leaves open stays resident on a CPU, and is the plan's choice on GPUs.
        decode_ranks: How many ranks do nothing but decode; None or ``auto`` lets the plan choose.

    Raises:
        InputError: The number is none, or the layout is not legal for this video, or nobody could share the weights.
        UnsupportedError: The layout has an axis that renders do not use, or no place for the patches of the request.
        ResourceError: The machine has fewer GPUs, or too little memory for what leaves them.
    """
    wished, beside = _read_layout(layout), read_decode_ranks(decode_ranks)
    ranks, patching = _count_ranks(gpus, wished, beside), job.request.patching
    check_room(beside, ranks, wished)
    if patching is not None:
        wish = _close_for_patches(wish)
        if wished is not None:
            check_patched_layout(wished)
        elif ranks == 1:
            raise InputError("patches flow through layers on several ranks: ask for --layout pipe=2, or for --gpus 2")
    if ranks == 1 and (wished is None or wished.ranks == 1):
        return _choose_alone(job, device, wish)
    on_gpus = runs_on_gpus(device)
    if on_gpus:
        _check_room(ranks, device)
    work, machine = _describe_work(job, on_gpus=on_gpus), describe_machine(ranks, on_gpus=on_gpus)
    wish = wish if on_gpus else wish.closed()
    place = "GPUs" if on_gpus else "CPU processes"
    search = _Search(work=work, machine=machine, place=place, wish=wish, patching=patching)
    if wished is not None:
        _check_wish(wished, work, machine, patching)
        check_possible(wished, wish)
    chosen = search.run(wished, beside)
    if patching is not None:
        chosen = replace(chosen, reason=_join(chosen.reason or "", str(patching)))
    if on_gpus:
        check_host(chosen.residency, work, chosen.layout, decode_ranks=chosen.decode_ranks)
    return chosen


def _choose_alone(job: RenderJob, device: str, wish: ResidencyWish) -> ChosenLayout:
    """One rank. The driver is asked only where a GPU may be too small: it takes longer than all other checks."""
    check_possible(Layout(), wish)
    if wish == wish.closed() or job.model.weights_bytes <= SMALL_BYTES or not runs_on_gpus(device):
        (residency,) = residencies_for(Layout(), wish.closed())
        return ChosenLayout(residency=residency)
    work, machine = _describe_work(job, on_gpus=True), describe_machine(1, on_gpus=True)
    row, why = choose_residency(work, machine, load_calibration(), Layout(), wish)
    check_host(row.residency, work, Layout())
    return ChosenLayout(residency=row.residency, reason=why)


def _close_for_patches(wish: ResidencyWish) -> ResidencyWish:
    if wish.blocks not in {None, Blocks.RESIDENT}:
        raise UnsupportedError(f"weights {wish.blocks} would come once for every patch; with patches they are resident")
    return replace(wish, blocks=Blocks.RESIDENT)


def _join(reason: str, more: str | None) -> str:
    return reason if more is None else f"{reason}; {more}"


def _read_layout(layout: object) -> Layout | None:
    if not isinstance(layout, str | Layout | None):
        raise InputError(f"layout is {layout!r}; it must be text such as 'cfg=2,ulysses=2'")
    return Layout.parse(layout) if isinstance(layout, str) else layout


def _count_ranks(gpus: int | None, wished: Layout | None, decode_ranks: int | None) -> int:
    count: object = gpus
    if count is None:
        count = (1 if wished is None else wished.ranks) + (decode_ranks or 0)
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise InputError(f"gpus is {count!r}; it must be a whole number")
    if not 1 <= int(count) <= MAX_GPUS:
        raise InputError(f"gpus is {count}; it must lie in 1..{MAX_GPUS}")
    return int(count)


def _check_room(ranks: int, device: str) -> None:
    has = len(usable_gpus())
    if ranks > has:
        other = "; with --device cpu, processes take their place" if device == "auto" or not has else ""
        raise ResourceError(f"{ranks} GPUs were asked for, this machine has {has}{other}")


def _describe_work(job: RenderJob, *, on_gpus: bool) -> PlanJob:
    request = job.request
    return PlanJob(
        facts=job.model.facts,
        sizes=measure_checkpoint(job.model.path),
        width=request.width,
        height=request.height,
        frames=request.frames,
        steps=request.recipe.schedule.length,
        guided_steps=count_guided_steps(request.recipe),
        chunking=request.recipe.chunking,
        memory=request.recipe.memory,
        value_bytes=2 if on_gpus else 4,
    )


def describe_machine(ranks: int, *, on_gpus: bool) -> Machine:
    """This machine as so many GPUs, or as so many processes that share its memory."""
    if on_gpus:
        return Machine(gpus=ranks, memory_bytes=min(gpu.memory_bytes for gpu in usable_gpus()) or memory_bytes())
    return Machine(gpus=ranks, memory_bytes=memory_bytes() // ranks)


def _check_wish(layout: Layout, work: PlanJob, machine: Machine, patching: Patching | None) -> None:
    for axis, why in UNWIRED.items():
        if getattr(layout, axis) > 1:
            there = replace(machine, gpus=min(MAX_GPUS, max(machine.gpus, layout.ranks)))
            able = [str(lane) for lane in _possible(work, there) if lane.ranks == layout.ranks]
            what = f"; {layout.ranks} ranks can take {' or '.join(able)}" if able else ""
            raise UnsupportedError(f"layout {layout} {why}{what}")
    check_layout(layout, work, machine)
    if patching is not None:
        check_patching(patching, layout, work)
    places = work.facts.tokens(1, work.width, work.height)
    if layout.sequence > places:
        raise SizeError(
            f"layout {layout} splits the tokens over {layout.sequence} ranks; a latent frame of this size has {places}"
        )


def _possible(work: PlanJob, machine: Machine) -> list[Layout]:
    """Legal layouts that can make one video faster, the single rank included; `pipe` saves memory, if anything."""
    places = work.facts.tokens(1, work.width, work.height)
    return [lane for lane in list_lanes(work, machine) if lane.pipe == 1 and lane.sequence <= places]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """Compares what a video would take.

    Args:
        work: The video.
        machine: All ranks.
        place: What they are, in words.
        wish: Where the weights are.
        patching: How the clip is cut, where it is.
    """

    work: PlanJob
    machine: Machine
    place: str
    wish: ResidencyWish
    patching: Patching | None = None

    def run(self, wished: Layout | None, decode_ranks: int | None) -> ChosenLayout:
        """The fastest for one video, as the plan predicts it, each layout with its fastest residency that fits."""
        best: dict[int, Prediction] = {}
        rows: dict[int, dict[Layout, Prediction]] = {}
        chosen: dict[int, Layout] = {}
        lendings: dict[int, Lending | None] = {}
        for count in list_choices(decode_ranks, self.machine.gpus, wished):
            denoising = replace(self.machine, gpus=self.machine.gpus - count)
            able = [lane for lane in self._list_lanes(denoising, wished) if residencies_for(lane, self.wish)]
            if not able:
                continue  # nobody would be left to share weights with
            rows[count] = self._predict(able, count)
            row = choose(rows[count].values()) or min(rows[count].values(), key=lambda row: row.peak_bytes)
            chosen[count] = next(lane for lane, found in rows[count].items() if found == row)
            lendings[count] = self._plan_lending(row) if count else None
            best[count] = with_lending(self.work, row, lendings[count])
        if not best:
            check_possible(Layout(), self.wish)
        count = choose_decode(best)
        layout = chosen[count]
        return ChosenLayout(
            layout=layout,
            decode_ranks=count,
            lending=lendings[count],
            residency=best[count].residency,
            reason=self._explain(layout, wished, rows[count], why_decode=explain_decode(best, count, lendings[count])),
        )

    def _list_lanes(self, denoising: Machine, wished: Layout | None) -> list[Layout]:
        if wished is not None:
            return [wished]
        if self.patching is None:
            return _possible(self.work, denoising)
        return list_patched_lanes(self.patching, self.work, denoising)

    def _plan_lending(self, row: Prediction) -> Lending | None:
        lanes = _possible(self.work, self.machine)
        return plan_lending(self.work, self.machine, load_calibration(), row, lanes)

    def _predict(self, lanes: list[Layout], decode_ranks: int) -> dict[Layout, Prediction]:
        predict = partial(best_residency, self.work, self.machine, load_calibration())
        return {
            lane: predict(lane, decode_ranks=decode_ranks, wish=self.wish, patching=self.patching) for lane in lanes
        }

    def _explain(
        self, layout: Layout, wished: Layout | None, rows: Mapping[Layout, Prediction], *, why_decode: str | None
    ) -> str:
        row = rows[layout]
        ranks = self.machine.gpus - row.decode_ranks
        if wished is not None:
            reason = f"layout {wished} on {wished.ranks} {self.place}, as asked"
        else:
            used = (
                f"{layout.ranks} {self.place}" if layout.ranks == ranks else f"{layout.ranks} of {ranks} {self.place}"
            )
            reason = f"layout {_name(layout)} on {used}: {_why(layout, rows, ranks)}"
        why = explain_residency(row, self.work, self.machine, load_calibration(), self.wish)
        return _join(_join(reason, why), why_decode)


def _name(layout: Layout) -> str:
    return "one rank" if layout.ranks == 1 else str(layout)


def _why(layout: Layout, rows: Mapping[Layout, Prediction], ranks: int) -> str:
    chosen = rows[layout]
    if not chosen.fits:
        needs, has = chosen.peak_bytes / GIB, chosen.memory_bytes / GIB
        return f"by the plan none fits, and this one needs least, {needs:.1f} of {has:.1f} GiB"
    fewer = layout.ranks < ranks
    rivals = [lane for lane in rows if lane != layout and rows[lane].fits and (not fewer or lane.ranks > layout.ranks)]
    if not rivals:
        return "no layout of more ranks is possible" if fewer else "the only one possible"
    second = min(rivals, key=lambda lane: rows[lane].clip_s)
    behind = f"{_name(second)} ({rows[second].clip_s / chosen.clip_s - 1:+.0%})"
    if fewer:
        return f"more ranks would gain nothing by the plan, as {behind}"
    return f"the fastest by the plan, ahead of {behind}"
