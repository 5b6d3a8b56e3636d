"""Ranks of gangs that are forked off a process that has imported torch, so that no rank imports it again."""

from reelray.workers.engine.gang_rank import serve
from reelray.workers.parallel.local_ranks import choose_context, loopback_interface

END_S = 10.0


class ForkedProcess:
    """Implements `RankProcess`.

    Args:
        process: Of multiprocessing, started.
    """

    def __init__(self, process):
        self._process = process

    def is_alive(self):
        return self._process.is_alive()

    def kill(self):
        self._process.kill()
        self._process.join(END_S)

    def last_words(self):
        self._process.join(0.5)
        code = self._process.exitcode
        return "its connection closed" if code is None else f"ended by signal {-code}" if code < 0 else f"exit {code}"


class ForkedLauncher:
    """Implements `RankLauncher` for tests of what ranks do once they run."""

    def __init__(self):
        self.host = "127.0.0.1"
        self.interface = loopback_interface()

    def launch(self, invitation):
        process = choose_context("cpu").Process(target=serve, args=(invitation,), daemon=True)
        process.start()
        return ForkedProcess(process)
