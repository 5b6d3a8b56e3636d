"""A plugin for pytest: of several processes that run the same tests, each takes a file that no other has taken yet.

Files that take long come first, so that no process waits long for the last one. pytest is told of it with
``-p tests.support.claims --claims FOLDER``; `tests.side_by_side` does so.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import pytest

LONG = ("integration", "workers/engine", "workers", "examples", "cluster")
"""Folders of tests, those first whose files take longest."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--claims`."""
    parser.addoption("--claims", type=Path, help="folder in which processes that share the tests note what they took")


def pytest_configure(config: pytest.Config) -> None:
    """Share the tests, if there is somebody to share them with."""
    if config.option.claims is not None:
        config.pluginmanager.register(Claims(config.option.claims, config.rootpath / "tests"))


class Claims:
    """Runs the tests of the files that this process was the first to claim.

    Args:
        folder: Where every claim leaves a file.
        root: What `LONG` is meant below.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put long files first."""
        items.sort(key=lambda item: self._rank(item.path))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what no other process runs; like pytest's own loop in all else."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted("errors during collection")
        mine = iter(()) if session.config.option.collectonly else self._claim_items(session.items)
        item = next(mine, None)
        while item is not None:
            following = next(mine, None)  # pytest has to know what it need not tear down
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    def _claim_items(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        for path, group in groupby(items, key=lambda item: item.path):
            if self._claim(path):
                yield from group

    def _claim(self, path: Path) -> bool:
        try:
            (self._folder / sha256(bytes(path)).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _rank(self, path: Path) -> int:
        return next((rank for rank, name in enumerate(LONG) if path.is_relative_to(self._root / name)), len(LONG))
