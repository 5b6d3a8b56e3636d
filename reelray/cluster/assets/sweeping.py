"""What is taken away of assets: those whose time is over, what is more than a tenant may have, and files of none."""

import asyncio

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.assets.catalog import UPLOAD_S, Catalog
from reelray.cluster.renders.artifact import ASSETS, StoredFile
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.store.open import Store

ORPHAN_S = 2 * UPLOAD_S
"""Younger files that no asset names may be of uploads that run."""


async def sweep_assets(store: Store, artifacts: Artifacts, rule: AssetRule, *, now_s: float) -> int:
    """Do that for all tenants; returns how many bytes went. It may run beside uploads, and twice at once.

    Args:
        store: Knows the assets, and whose time is over.
        artifacts: Has their files.
        rule: How much a tenant may have.
        now_s: Seconds since 1970, by the clock of the files.

    Raises:
        StoreError: It does not answer; what was not looked at is there next time.
        ArtifactError: The same.
    """
    catalog, freed = Catalog(store.connection), 0
    for tenant in await asyncio.to_thread(artifacts.tenants):
        # In this order: a file that is listed now and is of an asset is known to the store by then, or is young.
        files = await asyncio.to_thread(artifacts.files, tenant, ASSETS)
        if not files:
            continue
        kept = await catalog.sweep(tenant, rule.most_bytes)
        unnamed = [file for file in files if file.name not in kept and file.modified_s < now_s - ORPHAN_S]
        freed += await asyncio.to_thread(_delete, artifacts, unnamed)
    return freed


def _delete(artifacts: Artifacts, files: list[StoredFile]) -> int:
    for file in files:
        artifacts.delete(file.tenant, file.folder, file.name)
    return sum(file.size_bytes for file in files)
