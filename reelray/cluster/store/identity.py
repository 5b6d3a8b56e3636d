"""Which store it is, wherever it is reached."""

import secrets

from reelray.cluster.store.connection import Connection


async def identity_of(connection: Connection) -> str:
    """A name that a store gives itself when it is asked for the first time, and that no other store has.

    Raises:
        StoreError: It does not answer.
        ResourceError: It is full.
    """
    key = connection.key("identity")
    await connection.command("SET", key, secrets.token_hex(16), "NX")
    name: bytes = await connection.command("GET", key)
    return name.decode()
