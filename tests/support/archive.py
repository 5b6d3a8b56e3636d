"""A store and a folder of files for renders, and a worker that makes them without an engine."""

import asyncio
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.gateway.archive import Archive
from reelray.cluster.outbound.allow_list import Reach
from reelray.cluster.plain_json import to_plain
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.growing_video import VideoPlace
from reelray.cluster.renders.retention import clear_job
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.leases import Lease
from reelray.cluster.store.open import Store


@dataclass(frozen=True)
class Shelf:
    """Where an archive lies; each end connects on its own."""

    address: StoreAddress
    files: Path
    asset_rule: AssetRule = field(default_factory=AssetRule)
    reach: Reach = field(default_factory=Reach)

    def archive(self, connection: Connection) -> Archive:
        store = Store.over(connection)
        return Archive(store=store, artifacts=Artifacts(self.files), asset_rule=self.asset_rule, reach=self.reach)

    @contextmanager
    def opened(self) -> Iterator["Hands"]:
        """Work on it from this thread."""
        loop = asyncio.new_event_loop()
        connection = Connection(self.address)
        try:
            yield Hands(loop, self.archive(connection))
        finally:
            loop.run_until_complete(connection.close())
            loop.close()


class Hands:
    """A worker under the control of a test; makes bytes, not pictures."""

    def __init__(self, loop: asyncio.AbstractEventLoop, archive: Archive) -> None:
        self.archive, self.loop, self.lease = archive, loop, None
        self.store = archive.store
        self._segments = []

    def do(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def claim(self, queue: str = "fake", lease_s: float = 60.0) -> Lease:
        self.lease = self.do(self.store.leases.claim("a test", lease_s=lease_s, queues=[queue]))
        assert self.lease is not None, "nothing waits"
        self._segments = []
        return self.lease

    def progress(self, stage: str, done: int, total: int) -> None:
        self.do(self.store.events.post(self.lease, "progress", {"stage": stage, "done": done, "total": total}))

    def commit(self, data: bytes) -> None:
        """Make the next unit durable, with so many more bytes of the file."""
        unit = len(self._segments)
        record = UnitRecord(
            steps=1,
            video=VideoPlace(),
            snapshot=self._write(f"u{unit}", ".snap", b"state %d" % unit),
            segment=self._write(f"u{unit}", ".seg", data) if data else None,
        )
        self.do(self.store.ledger.commit(self.lease, unit, record.to_json()))
        self._segments.append(data)

    def finish(self) -> None:
        """End the job; its segments have become one file then."""
        video = self._write("video", ".mp4", b"".join(self._segments))
        result = {"video": to_plain(video), "frames": 17, "device": "cpu", "stage_s": {"denoise": 1.5}}
        self.do(self.store.leases.finish(self.lease, result))
        self.do(clear_job(self.store, self.archive.artifacts, self.lease.ref))

    def _write(self, stem: str, suffix: str, data: bytes):
        ref = self.lease.ref
        return self.archive.artifacts.write(ref.tenant, ref.id, f"{stem}-f{self.lease.fence}", suffix, data)

    def fail(self, why: str, *, retry: bool = False) -> None:
        self.do(self.store.leases.fail(self.lease, why, retry=retry))


@contextmanager
def start_store() -> Iterator[EmbeddedStore]:
    # In memory where there is such a folder: each change waits for the disk.
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder,
        EmbeddedStore(Path(folder)) as embedded,
    ):
        yield embedded


def fresh_shelf(server: EmbeddedStore, files: Path) -> Shelf:
    return Shelf(StoreAddress(url=server.url, prefix="t" + secrets.token_hex(6), patience_s=0.3), files)


def in_background(action) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread
