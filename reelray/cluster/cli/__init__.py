"""The `reelray` command."""

from reelray.cluster.cli.entry import main

__all__ = ["main"]
