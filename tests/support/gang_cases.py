"""Checkpoints that count their loads, models that misbehave when a gang is put together again, and the wait for it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.proto.events import Frames
from reelray.proto.step_plan import Crew
from reelray.workers.models.absent import is_here
from tests.support.fake_model import FakeModel
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Tally:
    """A loader that leaves a file per load, with the process that loaded: `0`, `1`, ... in the order of loads.

    Args:
        folder: Where the files go.
        load: Opens the checkpoint; given the number of the load if `numbered`.
        numbered: Whether it wants it.
    """

    folder: Path
    load: Any
    numbered: bool = False

    def __call__(self):
        number = self._note()
        return self.load(number) if self.numbered else self.load()

    def pids(self):
        """Processes that have loaded, in order."""
        files = sorted(self.folder.glob("load-*"), key=lambda path: int(path.name.removeprefix("load-")))
        return [int(path.read_text()) for path in files]

    def _note(self):
        number = 0
        draft = self.folder / f"draft-{os.getpid()}"
        draft.write_text(str(os.getpid()))
        while True:
            try:
                (self.folder / f"load-{number}").hardlink_to(draft)
            except FileExistsError:
                number += 1
            else:
                return number


class SlowlyReplaced(FakeModel):
    """Loads 2 to 4 take a while; load 5 dies when it has met the others."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        if 2 <= number <= 4:
            time.sleep(1.0)

    def use_picture_sharing(self, sharing):
        if self.number == 5:
            os._exit(3)
        return super().use_picture_sharing(sharing)


class Stubborn(FakeModel):
    """The first two break when they are to leave their gang, the next two do not leave it."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def work_alone(self):
        if self.number < 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(600.0)


def load_twice(number):
    """Whoever loads after the first two dies."""
    if number >= 2:
        os._exit(3)
    return FakeModel()


def die_at_once():
    os._exit(3)


def pid_of(gang, rank):
    return next(hello.pid for hello in gang.hellos if hello.rank == rank)


def has_replaced(gang, *pids):
    """Whether the gang is whole again, without these processes."""
    return not set(pids) & set(gang.pids()) and gang.is_whole


def clip_of(events, on_event=lambda _: None):
    parts = []
    for event in events:
        on_event(event)
        if isinstance(event, Frames):
            parts.append(event.data)
    return b"".join(parts)


class Gated(FakeModel):
    """Decodes its first piece only after this gang has evaluated the transformer `evaluations` times.

    Args:
        folder: Where evaluations leave a file each.
        evaluations: How many.
    """

    def __init__(self, folder, evaluations):
        super().__init__()
        self._folder, self._evaluations = folder, evaluations

    def denoise(self, *arguments, **rest):
        prediction = super().denoise(*arguments, **rest)
        (self._folder / f"evaluation-{len(self.calls)}").touch()
        return prediction

    def decode(self, latents_1CTHW, state, **options):
        wait_until((self._folder / f"evaluation-{self._evaluations}").exists)
        return super().decode(latents_1CTHW, state, **options)


class Brittle(FakeModel):
    """Its first decode fails."""

    def decode(self, latents_1CTHW, state, **options):
        self.calls.append("decode")
        if self.calls.count("decode") == 1:
            raise RuntimeError("the decoder broke")
        return super().decode(latents_1CTHW, state, **options)


class Overheard:
    """A channel that notes what it issues and collects, in order.

    Args:
        channel: The gang behind it.
    """

    def __init__(self, channel):
        self._channel = channel
        self.notes = []

    def issue(self, plan):
        self.notes.append(("issue", plan))
        self._channel.issue(plan)

    def collect(self):
        report = self._channel.collect()
        if report is not None:
            self.notes.append(("collect", report))
        return report

    def __getattr__(self, name):
        return getattr(self._channel, name)

    def windows_under_decodes(self):
        """For every decode, how many denoise steps came back between its issue and its report."""
        counts, plans = [], {}
        for kind, what in self.notes:
            key = (what.generation, what.crew, what.sequence)
            if kind == "issue":
                plans[key] = what
                if what.decodes:
                    counts.append(0)
                    decoding = key
            elif what.crew is Crew.DENOISE and plans[key].windows and counts and decoding in plans:
                counts[-1] += 1
            elif key == (decoding if counts else None):
                del plans[key]
        return counts


@dataclass(frozen=True)
class InStep:
    """Opens a checkpoint whose chunks are evaluated only when all latent frames before them are decoded.

    Args:
        folder: Where decoded latent frames leave a file each.
        load: Opens the checkpoint.
    """

    folder: Path
    load: Any

    def __call__(self):
        model = self.load()
        denoise, decode, decoded = model.denoise, model.decode, 0

        def denoise_late(*arguments, positions_BT, **rest):
            first = int(positions_BT[0, 0])
            if first:
                wait_until((self.folder / f"decoded-{first}").exists)
            return denoise(*arguments, positions_BT=positions_BT, **rest)

        def decode_and_tell(latents_1CTHW, state, **options):
            nonlocal decoded
            frames = decode(latents_1CTHW, state, **options)
            decoded += latents_1CTHW.shape[2]
            (self.folder / f"decoded-{decoded}").touch()
            return frames

        model.denoise, model.decode = denoise_late, decode_and_tell
        return model


@dataclass(frozen=True, kw_only=True, slots=True)
class Noting(CheckpointLoader):
    """Leaves a file for every opened checkpoint, named by what of it is there.

    Args:
        notes: The folder.
    """

    notes: Path

    def __call__(self):
        model = super(Noting, self).__call__()
        parts = model.parts
        names = ("transformer", "vae", "text_encoder", "preview")
        here = [name for name in names if getattr(parts, name) is not None and is_here(getattr(parts, name))]
        (self.notes / f"{'+'.join(here)}-{os.getpid()}").touch()
        return model
