"""A command that renders without end in an embedded engine; tests end it in several ways.

Prints one JSON line once steps flow: the folder of Ray and the processes it started.
"""

import json
import sys

import psutil

from reelray.cluster.embedded_engine import EmbeddedEngine
from reelray.proto.events import Progress, Stage
from tests.support.requests import make_recipe, make_request


def endless_model():
    from tests.support.fake_model import FakeModel  # a client never imports torch

    return FakeModel(step_s=0.01)


def main():
    with EmbeddedEngine(endless_model) as engine:
        for event in engine.render(make_request("a", recipe=make_recipe(steps=1_000_000))):
            if isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == 1:
                children = [child.pid for child in psutil.Process().children(recursive=True)]
                print(json.dumps({"folder": str(engine._ray._folder), "children": children}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
