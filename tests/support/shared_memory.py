"""What processes leave in shared memory."""

from contextlib import suppress
from pathlib import Path


def left_in_memory(before):
    """Files that have come since and that nobody uses; other tests run beside these.

    Python's own semaphores are not Ray's: processes that tests kill leave them behind.
    """
    maps = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            maps.append(path.read_text())
    used = "".join(maps)
    files = (path for path in Path("/dev/shm").iterdir() if path.is_file())  # stores of other tests are folders
    now = {path for path in files if not path.name.startswith("sem.mp-")}
    return [path for path in now - before if str(path) not in used]
