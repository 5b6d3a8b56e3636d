"""Names that may become part of a key, and what stands for text that may not."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Self

from reelray.proto.errors import InputError

# No colon, which parts keys; no brace, which would choose a slot; no leading or double dot, as names become paths too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_LONGEST = 64


def check_name(what: str, name: str) -> str:
    """Give a name back that is fit for a key.

    Args:
        what: What is named, for the message.
        name: A name from outside.

    Raises:
        InputError: It is empty, too long, or has other characters than letters, digits, `_`, `-` and single dots.
    """
    if not is_name(name):
        raise InputError(
            f"{what} is {name[: _LONGEST + 1]!r}: allowed are up to {_LONGEST} letters, digits, '_', '-' and "
            "single dots between them, the first a letter or digit"
        )
    return name


def is_name(text: str) -> bool:
    """Whether text is fit for a key."""
    return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None


def digest_of(text: str | bytes) -> str:
    """Hash that stands for text of users where a key or a comparison needs it."""
    # Text from JSON or from file names may hold lone surrogates, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode(errors="surrogatepass") if isinstance(text, str) else text).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRef:
    """Which job: its keys hold the tenant, so no id reaches another tenant's job.

    Args:
        tenant: Whose job.
        id: Id within the tenant.
    """

    tenant: str
    id: str

    def __post_init__(self) -> None:
        check_name("tenant", self.tenant)
        check_name("job", self.id)

    @classmethod
    def fresh(cls, tenant: str) -> Self:
        """A name that nobody can guess."""
        return cls(tenant=tenant, id=secrets.token_hex(16))

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read `__str__`'s form, as scripts return it."""
        tenant, _, job_id = text.decode().partition(":")
        return cls(tenant=tenant, id=job_id)

    def __str__(self) -> str:
        return f"{self.tenant}:{self.id}"

    @property
    def ids(self) -> dict[str, str]:
        """For errors."""
        return {"tenant": self.tenant, "job": self.id}
