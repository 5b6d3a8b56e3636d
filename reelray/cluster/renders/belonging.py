"""Files know whose jobs they are of.

Files of jobs that the store does not know are taken away. A store that never knew them must not have that done: one
wrong address would cost every video that was kept.
"""

import asyncio

from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.store.identity import identity_of
from reelray.cluster.store.open import Store
from reelray.proto.errors import ConflictError

MARK = "store-id"
"""File beside the tenants' folders, which holds the identity of their store."""


async def check_belonging(store: Store, artifacts: Artifacts) -> None:
    """Refuse files of another store's jobs; files without a mark are this store's from now on.

    Raises:
        ConflictError: They are another's.
        StoreError: It does not answer.
        ArtifactError: The files cannot be read or written.
    """
    own = await identity_of(store.connection)
    mark = await asyncio.to_thread(artifacts.read_mark, MARK)
    if mark is None:
        await asyncio.to_thread(artifacts.write_mark, MARK, own.encode())
        mark = await asyncio.to_thread(artifacts.read_mark, MARK)
    if mark != own.encode():
        raise ConflictError(
            f"the files in '{artifacts.place}' belong to jobs of another store: name that store (REELRAY_REDIS_URL, "
            f"REELRAY_REDIS_PREFIX) or another folder (--data DIR); where it is gone for good, delete '{MARK}' there"
        )
