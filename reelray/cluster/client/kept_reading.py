"""What is asked of `Renders`, and how answers are read; what goes on where a line breaks. Nothing here waits."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from reelray.cluster.client.deadlines import on_the_wire
from reelray.cluster.client.kept_render import FROM_STATES, KeptEvent, KeptRender, read_event, read_render
from reelray.cluster.client.requests import check_bytes, write_video
from reelray.cluster.render import RenderOptions
from reelray.cluster.store.job import JobState
from reelray.proto.errors import EngineError, InputError
from reelray.proto.v1 import renders_pb2 as wire

PAGE = 50
Message_contra = TypeVar("Message_contra", contravariant=True)
Item_co = TypeVar("Item_co", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How a render is asked for, besides what it shows.

    Args:
        model: Name of a served model; None takes the server's first.
        key: The caller's key: the same key and wish are the same render. None makes one for this call.
        priority: -100 to 100; higher ones are made first.
        webhook: Address that the server tells of its end; None tells nobody.
        deadline: When it should be complete; refused at once where that cannot be. None has no such time.
    """

    model: str | None = None
    key: str | None = None
    priority: int = 0
    webhook: str | None = None
    deadline: datetime | str | None = None


def write_submission(options: RenderOptions, wanted: Wanted) -> wire.SubmitRenderRequest:
    """Put a wish for a render that is kept on the wire; with a key, so that it may be said again.

    Raises:
        InputError: A value is none that the wire can carry.
    """
    key = wanted.key or f"once-{secrets.token_hex(16)}"
    try:
        said = wire.SubmitRenderRequest(
            video=write_video(options, wanted.model),
            options={"idempotency_key": key, "priority": wanted.priority},
            webhook=wanted.webhook,
        )
    except ValueError:
        raise InputError(f"priority is {wanted.priority}; it must be -100 to 100") from None
    if wanted.deadline is not None:
        said.options.deadline.CopyFrom(on_the_wire(wanted.deadline))
    check_bytes(said.ByteSize())
    return said


class Pages:
    """The pages of a list, one after the other.

    Args:
        state: Of the renders on it; None lists all.
    """

    def __init__(self, state: JobState | None) -> None:
        wanted = wire.RENDER_STATE_UNSPECIFIED if state is None else FROM_STATES[state]
        self.request = wire.ListRendersRequest(state=wanted, page_size=PAGE)
        self.more = True

    def take(self, page: wire.ListRendersResponse) -> list[KeptRender]:
        """Renders of a page; the request is for the next one then."""
        self.request.page_token, self.more = page.next_page_token, bool(page.next_page_token)
        return [read_render(render) for render in page.renders]


class Cursor(Protocol[Message_contra, Item_co]):
    """Reads a stream of messages; asked for again, it goes on behind what came."""

    @property
    def request(self) -> object:
        """For what follows."""
        ...

    @property
    def complete(self) -> bool:
        """Whether nothing is to follow."""
        ...

    def take(self, message: Message_contra) -> Item_co:
        """Read a message; raises EngineError for one that is not due."""
        ...


class Watching:
    """Reads the events of a render.

    Args:
        render_id: Which.
        after: Number of the last event seen.
    """

    complete = False

    def __init__(self, render_id: str, after: int) -> None:
        self.request = wire.WatchRenderRequest(id=render_id, after=after)

    def take(self, event: wire.WatchRenderEvent) -> KeptEvent:
        """See `Cursor`."""
        self.request.after = event.number
        return read_event(event, self.request.id)


class Downloading:
    """Reads the bytes of a render's file.

    Args:
        render_id: Which.
        offset: Of the first.
        length: Most bytes; None takes all.
        follow: Whether those that are not there yet are waited for.

    Raises:
        InputError: There is no such range.
    """

    def __init__(self, render_id: str, offset: int, length: int | None, *, follow: bool) -> None:
        if offset < 0 or (length is not None and length < 1):
            raise InputError(f"{length} bytes from {offset} on; offset is 0 or more, length 1 or more")
        self._id, self._at, self._follow = render_id, offset, follow
        self._end = None if length is None else offset + length

    @property
    def complete(self) -> bool:
        """See `Cursor`."""
        return self._end is not None and self._at >= self._end

    @property
    def request(self) -> wire.DownloadRenderRequest:
        """See `Cursor`."""
        length = 0 if self._end is None else self._end - self._at
        return wire.DownloadRenderRequest(id=self._id, offset=self._at, length=length, follow=self._follow)

    def take(self, chunk: wire.RenderChunk) -> bytes:
        """See `Cursor`."""
        if chunk.offset != self._at:
            raise EngineError(f"the server sent byte {chunk.offset}; byte {self._at} was due")
        self._at += len(chunk.data)
        return chunk.data
