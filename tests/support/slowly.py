"""Checkpoints that take their time and leave traces of who does what."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

STEP_S = 0.03
"""Each forward takes so much longer: the engine is not far ahead of what is committed."""


@dataclass(frozen=True)
class Slowly:
    """Opens a checkpoint that takes its time; each process leaves a file `KIND-PID` of what it does.

    The kinds are ``denoise``, ``decode``, and, while it lasts, ``text``. While there is a file `gate-MODEL`, each
    process makes as many forwards as it says, leaves a file `at-gate-MODEL-PID`, and waits until the first is gone.

    Args:
        load: Opens it.
        folder: Where the files go.
        text_s: Seconds for each text.
    """

    load: object
    folder: Path
    text_s: float = 0.0

    def for_networks(self, networks):
        return replace(self, load=self.load.for_networks(networks))

    def __call__(self):
        model = self.load()
        for kind, name in (("denoise", "denoise"), ("decode", "decode"), ("text", "encode_text")):
            if hasattr(model, name):
                setattr(model, name, self._traced(kind, getattr(model, name)))
        return model

    def _traced(self, kind, work):
        gate = Gate(self.folder, f"gate-{self.load.path.name}")

        def traced(*args, **kwargs):
            trace = self.folder / f"{kind}-{os.getpid()}"
            trace.touch()
            time.sleep({"denoise": STEP_S, "decode": 0.0, "text": self.text_s}[kind])
            if kind == "denoise":
                gate.pass_through()
            if kind == "text":
                trace.unlink(missing_ok=True)
            return work(*args, **kwargs)

        return traced


class Gate:
    """Lets so many through."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file, self._here, self._passed = folder / name, folder / f"at-{name}-{os.getpid()}", 0

    def pass_through(self) -> None:
        if (most := self._most()) is None:
            self._passed = 0
            return
        self._passed += 1
        if self._passed <= most:
            return
        self._here.touch()
        while self._most() is not None:
            time.sleep(0.01)

    def _most(self) -> int | None:
        try:
            said = self._file.read_text()
        except FileNotFoundError:
            return None
        return int(said) if said else None  # it is being written
