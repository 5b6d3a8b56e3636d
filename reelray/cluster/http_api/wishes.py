"""From the body of a request to the wish that gRPC's callers would send; all checks beyond its form are the same."""

import base64
import json
import math
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from reelray.cluster.gateway.option_check import LAST_S
from reelray.cluster.http_api.bodies import read_body, read_form
from reelray.cluster.render import parse_size
from reelray.proto.errors import InputError
from reelray.proto.v1 import video_spec_pb2 as wire

DECODERS = {None: wire.DECODER_UNSPECIFIED, "full": wire.DECODER_FULL, "preview": wire.DECODER_PREVIEW}
PICTURE = "input_reference"
LONGEST_PLACE = 80

Text = Annotated[str, Field(strict=True)]


class Change(BaseModel):
    """A prompt that follows the first."""

    model_config = ConfigDict(extra="forbid")
    seconds: float
    prompt: Text
    cut: bool = False


class Reference(BaseModel):
    """A picture to begin with that is not sent as a file."""

    model_config = ConfigDict(extra="forbid")
    image_url: Text | None = None
    file_id: Text | None = None


class Wish(BaseModel):
    """What a caller may say; beyond OpenAI's fields those of `reelray render`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    prompt: Text
    model: Text = ""
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    size: Text | None = None
    input_reference: bytes | Reference | None = None
    frames: int | None = Field(default=None, ge=0, lt=2**32)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    steps: int | None = Field(default=None, ge=0, lt=2**32)
    guidance: float | None = None
    fps: float | None = None
    negative_prompt: Text | None = None
    decoder: Text | None = None
    sparsity: Text = ""
    changes: list[Change] = Field(default=[], max_length=1000)
    priority: int = Field(default=0, ge=-100, le=100)
    webhook: Text = ""
    deadline: Any = None

    def deadline_ms(self) -> int | None:
        """When it should be complete, in milliseconds since 1970; None without such a time.

        Raises:
            InputError: It is no time.
        """
        return None if self.deadline is None else _milliseconds_of(self.deadline)

    def video(self) -> wire.VideoSpec:
        """The same as gRPC says it.

        Raises:
            InputError: Two lengths, or a value that nothing could mean.
        """
        if self.frames is not None and self.seconds is not None:
            raise InputError("both frames and seconds were given; give one of them")
        if self.decoder not in DECODERS:
            raise InputError("decoder must be full or preview")
        width, height = parse_size(self.size) if self.size is not None else (0, 0)
        picture = _condition_of(self.input_reference)
        said = self.model_dump(include={"model", "prompt", "seconds", "frames", "seed", "steps", "guidance", "fps"})
        try:
            return wire.VideoSpec(
                **{name: value for name, value in said.items() if value is not None},
                negative_prompt=self.negative_prompt,
                size=None if self.size is None else wire.Size(width=width, height=height),
                changes=[wire.PromptChange(**change.model_dump()) for change in self.changes],
                decoder=DECODERS[self.decoder],
                sparsity=self.sparsity,
                conditions=[] if picture is None else [picture],
            )
        except ValueError:  # such as halves of letters
            raise InputError("a value of the request is out of range, or no valid text") from None


async def read_wish(request: Request) -> Wish:
    """Read the body of a request that creates a video.

    Raises:
        InputError: It is neither JSON nor a form, or a field of it is wrong; the message names it.
        HTTPException: It is too large, or comes too slowly.
    """
    body = await read_body(request)
    content_type = request.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        return _checked(_form_values(content_type, body))
    return _checked(read_json(body))


def read_json(body: bytes) -> dict[str, Any]:
    """Read an object of JSON.

    Raises:
        InputError: It is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the body is no JSON and no multipart/form-data") from None
    if not isinstance(value, dict):
        raise InputError("the body is JSON, and no object of fields")
    return value


def _form_values(content_type: str, body: bytes) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in read_form(content_type, body):
        name, bracket, inner = part.name.partition("[")
        if part.name in values:
            raise InputError(f"field {part.name[:LONGEST_PLACE]!r} was given twice")
        if part.is_file:
            if part.name != PICTURE:
                raise InputError(f"field {part.name[:LONGEST_PLACE]!r} is a file; the only one taken is {PICTURE}")
            values[PICTURE] = part.data
        elif bracket and name == PICTURE and isinstance(values.setdefault(name, {}), dict):
            if (field := inner.removesuffix("]")) in values[name]:
                raise InputError(f"field {part.name[:LONGEST_PLACE]!r} was given twice")
            values[name][field] = _text(part.data, part.name)
        else:
            values[part.name] = _field(part.name, _text(part.data, part.name))
    return values


def _field(name: str, text: str) -> Any:
    """The value of a form's field; lists travel as JSON."""
    if name != "changes":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("changes is no JSON; in a form it is a list of them as JSON") from None


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"field {name[:LONGEST_PLACE]!r} is no UTF-8 text") from None


def _checked(values: dict[str, Any]) -> Wish:
    if isinstance(values.get(PICTURE), str):
        raise InputError(f'{PICTURE} is text; send {{"image_url": "data:image/png;base64,…"}}, or a file in a form')
    try:
        return Wish.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])[:LONGEST_PLACE]
        raise InputError(f"{place}: {first['msg'][:200]}") from None


def _milliseconds_of(deadline: object) -> int:
    """Seconds since 1970, or a date with a time and its zone."""
    with suppress(ValueError, OverflowError):
        if isinstance(deadline, str) and not deadline.replace(".", "", 1).isdecimal():
            time = datetime.fromisoformat(deadline)
            seconds = time.timestamp() if time.tzinfo is not None else math.nan
        else:
            seconds = float(deadline) if isinstance(deadline, int | float | str) else math.nan
        if 0 <= seconds <= LAST_S and not isinstance(deadline, bool):
            return math.floor(1000 * seconds)
    raise InputError(
        f"deadline is {str(deadline)[:LONGEST_PLACE]!r}; it must be seconds since 1970, or a time with its zone, such "
        "as 2026-12-24T18:00:00Z"
    )


def _condition_of(reference: bytes | Reference | None) -> wire.Condition | None:
    if reference is None:
        return None
    said = {"inline": reference} if isinstance(reference, bytes) else _source_of(reference)
    return wire.Condition(kind=wire.Condition.FIRST_FRAME, **said)


def _source_of(reference: Reference) -> dict[str, Any]:
    """Where a picture is: the id of an asset, its bytes, or an address."""
    url = reference.image_url
    if reference.file_id is not None and url is None:
        return {"asset_id": reference.file_id}
    if reference.file_id is not None or url is None:
        raise InputError(f"{PICTURE} is one of image_url and file_id")
    head, comma, data = url.partition(",")
    if not url.startswith("data:"):
        return {"url": url}
    if not comma or not head.endswith(";base64"):
        raise InputError(f"{PICTURE} is a data: URL of another kind; send data:image/png;base64,…")
    try:
        return {"inline": base64.b64decode(data, validate=True)}
    except ValueError:  # of base64, or for letters beyond ASCII
        raise InputError(f"{PICTURE} is no base64") from None
