"""The line to the store: scripts, reads, and one kind of error when it is gone."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from reelray.cluster.store.names import check_name
from reelray.cluster.store.trips import Trips
from reelray.proto.errors import InputError, ResourceError, StoreError

# How long one blocking read waits at the server before it is asked again.
BLOCK_S = 5.0
_LOST = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError)
_UNFIT = (exceptions.ClusterDownError, exceptions.MasterDownError, exceptions.TryAgainError, exceptions.AskError)
_UNFIT_WORDS = ("BUSY ", "NOREPLICAS ", "UNKILLABLE ", "CLUSTERDOWN ", "MASTERDOWN ", "MOVED ", "TRYAGAIN ")
_ONCE_MORE_S = 0.02
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which the server runs as one change.

    Args:
        text: Its text. `KEYS[1]` is the prefix of all keys, which stands in braces so that all lie in one slot.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode()).hexdigest())  # noqa: S324 - the protocol's name


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreAddress:
    """Where the store is and how patient its clients are.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        prefix: Separates deployments that share a server.
        answer_s: How long one answer may take.
        patience_s: How long a call goes on trying while the store is away.
        connections: Most connections of one process, those that wait for events not counted.
        watchers: Most connections of one process that wait for events.
    """

    url: str = field(repr=False)
    prefix: str = "reelray"
    answer_s: float = 5.0
    patience_s: float = 1.5
    connections: int = 32
    watchers: int = 1024

    def __post_init__(self) -> None:
        check_name("the store's prefix", self.prefix)
        if urlsplit(self.url).scheme not in {"redis", "rediss", "unix"}:
            raise InputError(f"the store's address {self.shown} must begin with redis://, rediss:// or unix://")

    @property
    def shown(self) -> str:
        """The address without user, password and options."""
        parts = urlsplit(self.url)
        return f"'{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}'"


class Connection:
    """Runs scripts and reads, and connects anew where the line broke.

    A call that fails for want of a connection is tried again until `patience_s` is over, so a script may run twice; the
    parts of the store say where that shows.

    Args:
        address: Where the store is.
    """

    def __init__(self, address: StoreAddress) -> None:
        self.address = address
        self.prefix = f"{{{address.prefix}}}"
        self._calls = _client(address, address.connections, address.answer_s)
        self._waits = _client(address, address.watchers, address.answer_s + BLOCK_S)
        self._trips = Trips(self._calls)
        self._call: Callable[..., Awaitable[Any]] = self._trips.call
        # The client's own method has no types.
        self._wait: Callable[..., Awaitable[Any]] = self._waits.execute_command

    def key(self, *parts: object) -> str:
        """A key below the prefix; the parts are checked names or hashes."""
        return ":".join((self.prefix, *map(str, parts)))

    async def run(self, script: Script, *args: str | bytes | int) -> Any:
        """Run a script.

        Raises:
            StoreError: The store does not answer.
            ResourceError: Its memory or disk is full.
        """
        return await self._persist(lambda: self._evaluate(script, args))

    async def command(self, *command: str | bytes | int) -> Any:
        """Run one command of the server; raises as `run` does."""
        return await self._persist(lambda: self._call(*command))

    async def wait(self, *command: str | bytes | int) -> Any:
        """Run one command that may wait up to `BLOCK_S` at the server; raises as `run` does."""
        return await _apart(self._persist(lambda: self._wait(*command)))

    async def close(self) -> None:
        """Close all connections."""
        await self._trips.close()
        await self._calls.aclose()
        await self._waits.aclose()

    async def _evaluate(self, script: Script, args: tuple[str | bytes | int, ...]) -> Any:
        try:
            return await self._call("EVALSHA", script.sha, 1, self.prefix, *args)
        except exceptions.NoScriptError:  # a fresh server
            return await self._call("EVAL", script.text, 1, self.prefix, *args)

    async def _persist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        until, pause_s = time.monotonic() + self.address.patience_s, _FIRST_PAUSE_S
        while True:
            try:
                answer = await call()
                _heed_cancellation()
            except exceptions.AuthenticationError as error:
                raise StoreError(f"the store at {self.address.shown} refuses user or password") from error
            except _LOST as error:
                if time.monotonic() + pause_s > until:
                    raise StoreError(f"the store at {self.address.shown} does not answer: {error}") from error
            except exceptions.ResponseError as error:
                raise self._refusal(error) from error
            else:
                return answer
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _refusal(self, error: exceptions.ResponseError) -> Exception:
        said = str(error)
        full = isinstance(error, exceptions.OutOfMemoryError) or said.startswith(("OOM", "MISCONF"))
        if full:
            return ResourceError(f"the store at {self.address.shown} cannot take more: {said}")
        if isinstance(error, exceptions.NoPermissionError) or said.startswith("NOAUTH"):
            return StoreError(f"the store at {self.address.shown} does not let this user do that: {said}")
        if isinstance(error, _UNFIT) or said.startswith(_UNFIT_WORDS):
            return StoreError(f"the store at {self.address.shown} cannot serve now: {said}")
        return error


def _heed_cancellation() -> None:
    """End a task that was cancelled while it called: the client loses a cancellation that comes just as it sends."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _apart(work: Coroutine[Any, Any, Any]) -> Any:
    """Await something long in a task of its own, so that a cancellation ends the wait whatever becomes of that."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask any more
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        asyncio.get_running_loop().call_later(_ONCE_MORE_S, task.cancel)  # the first one may be lost, see above
        raise


def _client(address: StoreAddress, connections: int, answer_s: float) -> redis.Redis:
    pool = redis.BlockingConnectionPool.from_url(
        address.url,
        max_connections=connections,
        timeout=answer_s,
        socket_timeout=answer_s,
        socket_connect_timeout=address.answer_s,
        retry=Retry(NoBackoff(), 0),
        encoding_errors="backslashreplace",  # messages of errors hold file names, which may be no UTF-8
        protocol=2,
    )
    return redis.Redis.from_pool(pool)
