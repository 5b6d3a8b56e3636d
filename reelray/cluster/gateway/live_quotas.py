"""Videos that clients wait for, under their tenants' quotas: charged once, and given back where they were not made."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from reelray.cluster.gateway.archive import in_plain_words
from reelray.cluster.gateway.tenant_quotas import LIVE_HOLD_S, TenantQuotas
from reelray.cluster.store.calls import CallLimits, Calls
from reelray.cluster.store.quotas import SlotLimit
from reelray.proto.errors import CancelledError, InputError, QuotaError, ReelrayError

LOG = logging.getLogger("reelray.gateway")
STAY_S = LIVE_HOLD_S / 3
LAST_S, LOOK_S = 1.0, 0.01
"""How long the end of a server waits for what is given back, and how often it looks."""
PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
"""Between two tries to give back."""


class Admission:
    """What a live video was let in with; the same for what is added to it. May be used from any thread.

    Args:
        frames: That it is charged for.
        home: Where it was let in; None where its tenant has no quotas.
        tenant: Whose.
        name: Of the call, unlike all others.
        slots: What it holds one of; None for what is added to a call that does.
    """

    def __init__(
        self,
        frames: int,
        home: "LiveQuotas | None" = None,
        *,
        tenant: str = "",
        name: str = "",
        slots: SlotLimit | None = None,
    ) -> None:
        self.frames, self._home = frames, home
        self.tenant, self.name, self.slots = tenant, name, slots

    def charge_only(self, frames: int) -> None:
        """Give back what was charged beyond so many frames; the call goes on."""
        if self._home is not None and frames < self.frames:
            self._home.give_back(self, max(0, frames))
        self.frames = min(self.frames, max(0, frames))

    def leave(self, frames: int | None = None) -> None:
        """The call is over; harmless when said twice.

        Args:
            frames: Most that stay charged; None keeps all.
        """
        home, self._home = self._home, None
        if home is not None:
            home.let_out(self, frames)


class LiveQuotas:
    """Of one event loop; costs nothing where no quotas are set.

    Args:
        quotas: Of tenants.
        calls: Those of the store; None where there is none, and so no quotas.
    """

    def __init__(self, quotas: TenantQuotas, calls: Calls | None) -> None:
        self._quotas, self._calls = quotas, calls
        self._staying: dict[str, Admission] = {}
        self._last: dict[str, asyncio.Task[None]] = {}  # that gives back, of each call: one after the other
        self._keeping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_ending = False

    def was_wanted(self, error: BaseException) -> bool:
        """Whether a video ended early because its client left or read nothing, and not by the server's fault."""
        return isinstance(error, asyncio.CancelledError | CancelledError) and not self.is_ending

    def are_free(self, tenant: str) -> bool:
        """Whether a tenant's live videos have no limits."""
        return self._calls is None or not self._quotas.of(tenant).limits_live

    async def enter(self, tenant: str, name: str, frames: int) -> Admission:
        """Let a live video in, or part of one.

        Args:
            tenant: Whose.
            name: Unlike all others.
            frames: That it is charged for.

        Raises:
            QuotaError: A limit is reached; nothing was taken.
            InputError: It has more frames than its tenant may ever ask for.
            StoreError: The store does not answer.
        """
        if self._calls is None or self.are_free(tenant):
            return Admission(frames)
        limits = self._quotas.of(tenant).live_limits(frames)
        self._loop = asyncio.get_running_loop()
        admission = Admission(frames, self, tenant=tenant, name=name, slots=limits.slots)
        await self._let_in(admission, limits)
        self._staying[name] = admission
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep(), name="slots of live videos")
        return admission

    async def add(self, tenant: str, name: str, frames: int) -> Admission:
        """Charge a call that is in for more frames; see `enter`."""
        if self._calls is None or self.are_free(tenant):
            return Admission(frames)
        limits = self._quotas.of(tenant).frames_limit(frames)
        self._loop = asyncio.get_running_loop()
        admission = Admission(frames, self, tenant=tenant, name=name)
        await self._let_in(admission, limits)
        return admission

    async def _let_in(self, admission: Admission, limits: CallLimits) -> None:
        """Ask the store; where it is not known what came of that, give back what may have been taken."""
        assert self._calls is not None, "else nobody has limits"
        entering = asyncio.create_task(self._calls.enter(admission.tenant, admission.name, limits))
        try:
            with in_plain_words():
                await asyncio.shield(entering)
        except (QuotaError, InputError):
            raise
        except BaseException:
            entering.add_done_callback(lambda done: _leave_behind(admission, done))
            raise

    def wait_for(self, work: Coroutine[Any, Any, Admission]) -> Admission:
        """The same for other threads than the loop's."""
        assert self._loop is not None, "who adds to a call was let in"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def give_back(self, admission: Admission, frames: int) -> None:
        """See `Admission.charge_only`."""
        assert self._calls is not None, "else nobody was let in"
        self._do(admission.name, partial(self._calls.keep_charged, admission.tenant, admission.name, frames))

    def let_out(self, admission: Admission, frames: int | None) -> None:
        """See `Admission.leave`."""
        assert self._calls is not None, "else nobody was let in"
        slots = admission.slots or SlotLimit(name="none", limit=0, hold_s=LIVE_HOLD_S)
        leave = partial(self._calls.leave, admission.tenant, admission.name, slots, frames)
        self._do(admission.name, leave, is_over=True)

    async def close(self) -> None:
        """All calls are over, or about to be; wait until what they give back is given."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self._staying or self._last:  # noqa: ASYNC110  their ends come in many ways
                    await asyncio.sleep(LOOK_S)
        for task in (*self._last.values(), *([] if self._keeping is None else [self._keeping])):
            task.cancel()

    def _do(self, name: str, work: Callable[[], Awaitable[None]], *, is_over: bool = False) -> None:
        assert self._loop is not None, "somebody was let in"
        self._loop.call_soon_threadsafe(self._begin, name, work, is_over)

    def _begin(self, name: str, work: Callable[[], Awaitable[None]], is_over: bool) -> None:
        if is_over:
            self._staying.pop(name, None)
        task = asyncio.create_task(_until_done(work, after=self._last.get(name)))
        self._last[name] = task
        task.add_done_callback(partial(self._forget, name))

    def _forget(self, name: str, task: "asyncio.Task[None]") -> None:
        if self._last.get(name) is task:
            del self._last[name]

    async def _keep(self) -> None:
        """Say again and again who is there."""
        assert self._calls is not None, "else nobody was let in"
        while self._staying:
            await asyncio.sleep(STAY_S)
            there = [(one, one.slots) for one in self._staying.values() if one.slots is not None]
            words = [self._calls.stay(one.tenant, one.name, slots) for one, slots in there]
            for failed in await asyncio.gather(*words, return_exceptions=True):
                if failed is not None:
                    LOG.warning("slots of live videos: %s", failed)
                    break


async def _until_done(work: Callable[[], Awaitable[None]], after: "asyncio.Task[None] | None") -> None:
    """Do what may be done twice, again and again until the store has answered."""
    if after is not None:
        await asyncio.wait({after})
    pause_s = PAUSE_S
    while True:
        try:
            return await work()
        except ReelrayError as error:
            LOG.warning("a quota is not given back yet: %s", error.message)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _leave_behind(admission: Admission, entered: "asyncio.Task[None]") -> None:
    """Give back what nobody is there to use."""
    if not entered.cancelled():
        entered.exception()
    admission.leave(0)
