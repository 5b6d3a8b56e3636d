"""Checkpoints that take their time and leave traces of who does what."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

STEP_S = 0.03
"""Each forward takes so much longer: the engine is not far ahead of what is committed."""


@dataclass(frozen=True)
class Slowly:
    """Opens a checkpoint that takes its time and leaves traces in the working folder.

    Each forward leaves a byte in `log`, and each process a file `KIND-PID` of what it does: ``denoise``, ``decode``,
    and, while it lasts, ``text``.

    Args:
        load: Opens it.
        log: A file.
        text_s: Seconds for each text.
    """

    load: object
    log: Path
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
        def traced(*args, **kwargs):
            trace = self.log.with_name(f"{kind}-{os.getpid()}")
            trace.touch()
            if kind == "denoise":
                with self.log.open("ab") as log:
                    log.write(b".")
            time.sleep({"denoise": STEP_S, "decode": 0.0, "text": self.text_s}[kind])
            if kind == "text":
                trace.unlink()
            return work(*args, **kwargs)

        return traced
