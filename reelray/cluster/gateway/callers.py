"""Who calls: tokens, and the tenants that they belong to."""

import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reelray.cluster.store.names import check_name
from reelray.cluster.wire import check_token
from reelray.proto.errors import InputError

DEFAULT_TENANT = "default"
SCHEME = "Bearer "
SHORTEST_TOKEN = 16


class Callers:
    """Knows callers by their tokens; lets everybody in where there are none.

    Args:
        tenants: Tenant of each token.

    Raises:
        InputError: A token is too short or cannot be said over the wire, or a tenant's name is none.
    """

    def __init__(self, tenants: Mapping[str, str] | None = None) -> None:
        for token, tenant in (tenants or {}).items():
            if len(token) < SHORTEST_TOKEN:
                raise InputError(f"the token has {len(token)} characters; take {SHORTEST_TOKEN} or more")
            check_token(token)
            check_name("tenant", tenant)
        self._tenants = {f"{SCHEME}{token}".encode(): tenant for token, tenant in (tenants or {}).items()}

    @property
    def are_known(self) -> bool:
        """Whether callers need a token."""
        return bool(self._tenants)

    def knows(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
        """The tenant whose token a call carries; None where it carries none of ours."""
        given = dict(metadata or ()).get("authorization", "")
        said, found = given if isinstance(given, bytes) else given.encode(), None
        for wanted, tenant in self._tenants.items():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(said, wanted):
                found = tenant
        return found

    def tenant_of(self, context: Any, said: str) -> str:
        """Whose call it is.

        Args:
            context: Of the call.
            said: What its request says; empty where it says nothing.

        Raises:
            InputError: It says another tenant than its token, or what is no name.
        """
        if not self.are_known:
            return check_name("tenant", said or DEFAULT_TENANT)
        tenant = self.knows(context.invocation_metadata())
        assert tenant is not None, "the guard lets nobody else in"
        if said not in {"", tenant}:
            raise InputError(f"tenant is {said[:65]!r}, and this token belongs to '{tenant}'; leave it out")
        return tenant


def read_tokens(file: Path) -> dict[str, str]:
    """Read lines of a tenant and its token; a tenant may have several. Empty lines and those with # are left out.

    Raises:
        InputError: The file cannot be read, or a line is something else.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"tokens '{file}' cannot be read: {error}") from None
    tenants: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise InputError(f"line {number} of '{file}' has {len(words)} words; write TENANT TOKEN")
        if words[1] in tenants:
            raise InputError(f"line {number} of '{file}' has the token of another line; each is given once")
        tenants[words[1]] = words[0]
    if not tenants:
        raise InputError(f"'{file}' has no tokens; write lines of TENANT TOKEN")
    return tenants
