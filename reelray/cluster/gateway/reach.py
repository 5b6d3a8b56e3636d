"""Whom a server may speak to by itself, from its options and settings."""

from collections.abc import Sequence

from reelray.cluster.outbound.allow_list import AllowList, Reach
from reelray.cluster.renders.webhook_event import read_key
from reelray.cluster.settings import Settings


def read_reach(urls: Sequence[str], webhooks: Sequence[str], settings: Settings) -> Reach:
    """Read prefixes of addresses, and the key for webhooks.

    Raises:
        InputError: A prefix is no address, or there are webhooks and no key, or one that is none.
    """
    secret = settings.webhook_secret
    return Reach(
        urls=AllowList.of(urls),
        webhooks=AllowList.of(webhooks, option="--allow-webhook"),
        webhook_secret=b"" if secret is None else read_key(secret.get_secret_value()),
    )
