"""Where renders are kept: jobs in the store, their files beside it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.outbound.allow_list import Reach
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.retention import RetentionRule
from reelray.cluster.store.open import Store
from reelray.proto.errors import ArtifactError, GoneError, QuotaError, ResourceError, StoreError

LOG = logging.getLogger("reelray.gateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """Everything that outlives a server.

    Args:
        store: Jobs and what happens to them.
        artifacts: Their files.
        rule: How long they are kept.
        asset_rule: How much is kept of what callers bring along.
        reach: Whom a server over it speaks to by itself.
    """

    store: Store
    artifacts: Artifacts
    rule: RetentionRule = field(default_factory=RetentionRule)
    asset_rule: AssetRule = field(default_factory=AssetRule)
    reach: Reach = field(default_factory=Reach)


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Around what store and files do for a caller: their errors name addresses and paths, none of its business.

    Raises:
        StoreError: The store does not answer.
        ArtifactError: The files cannot be reached.
        GoneError: They are not there any more.
        ResourceError: One of them is full.
    """
    try:
        yield
    except QuotaError:
        raise
    except GoneError as error:
        LOG.info("%s", error.message)
        raise GoneError("the files of this render are not there any more; submit it again") from None
    except StoreError as error:
        LOG.warning("%s", error.message)
        raise StoreError("the store of renders does not answer; try again soon") from None
    except ArtifactError as error:
        LOG.warning("%s", error.message)
        raise ArtifactError("the files of renders cannot be reached now; try again soon") from None
    except ResourceError as error:
        LOG.warning("%s", error.message)
        raise ResourceError("there is no room for more renders now; try again later") from None
