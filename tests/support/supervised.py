"""A supervised program that serves nothing: `python -m tests.support.supervised WORDS`.

The server says its process and where one before it listened, and does in its n-th life what the n-th word says:
``stay``, ``ready`` (and stay), ``bear`` (the same, with a child that does not care), ``leave`` (with code 0, when it
was ready), ``mute`` (says nothing but by a file), ``fail`` (before it is ready).
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from reelray.cluster.supervisor.restarts import RestartRule
from reelray.cluster.supervisor.seat import News, Ports
from reelray.cluster.supervisor.supervise import supervise
from reelray.proto.errors import EngineError

LIVES = Path("lives")


def live(word, seat):
    if word == "fail":
        sys.exit(3)
    if word in {"ready", "bear", "leave"}:
        port = 50051 + (seat.before.ports.grpc - 50000 if seat.before else 0)
        seat.is_ready(News(ports=Ports(grpc=port), engines={"model": "x" * (1 << 17 if word == "bear" else 1)}))
    child = subprocess.Popen(["sleep", "600"]).pid if word == "bear" else ""
    print("here", word, child, flush=True)
    while word != "leave":
        time.sleep(60)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    seat = supervise(lambda line: print(line, flush=True), RestartRule(first_wait_s=0.01, most_losses=3))
    with LIVES.open("a") as lives:
        lives.write("x")
    words = sys.argv[1:]
    life = len(LIVES.read_text())
    if words[min(life, len(words)) - 1] == "mute":
        Path("mute").touch()
        time.sleep(600)
    print("server", os.getpid(), seat.before and seat.before.ports.grpc, flush=True)
    live(words[min(life, len(words)) - 1], seat)


if __name__ == "__main__":
    try:
        main()
    except EngineError as error:
        print(error.message, flush=True)
        sys.exit(error.exit_code)
