"""What a file for `reelray serve --config` says."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from reelray.cluster.engine_groups.options import GroupOptions
from reelray.cluster.gateway.serving import GRACE_S, is_loopback
from reelray.cluster.model_catalog import is_path
from reelray.cluster.outbound.allow_list import read_prefix
from reelray.cluster.render_plan import Place
from reelray.cluster.serve_config.keeping import CLOSED, KeepingConfig, QuotaConfig, QuotasConfig
from reelray.proto.errors import InputError
from reelray.proto.layout import Layout
from reelray.scheduler.plan.machine import MAX_GPUS

LARGEST_BYTES = 1_000_000


class GroupConfig(BaseModel):
    """Engines of one model that are alike; what is left out is as on the command line."""

    model_config = CLOSED

    model: str = Field(min_length=1, description="Its name, or its folder, from where this file lies.")
    count: int = Field(default=1, ge=1, le=MAX_GPUS, description="How many engines; each request goes to one of them.")
    device: Literal["auto", "cpu", "cuda"] | None = Field(default=None, description="Where they run.")
    engine: Literal["ray", "local"] | None = Field(default=None, description="In an embedded Ray, or in the server.")
    gpus: int | None = Field(default=None, ge=1, le=MAX_GPUS, description="GPUs of each engine; processes on a CPU.")
    layout: str | None = Field(default=None, description="How they share a video, such as cfg=2,ulysses=2.")
    decode_ranks: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        default=None, description="How many of them do nothing but decode."
    )
    weights: Literal["auto", "resident", "sharded", "offloaded"] | None = None
    encoder: Literal["auto", "resident", "released"] | None = None
    preload: bool = Field(default=True, description="False loads them when they are asked for anything.")
    idle_s: float = Field(default=600.0, gt=0, description="How long those stay loaded that nobody asks.")

    @field_validator("layout")
    @classmethod
    def _check_layout(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                Layout.parse(text)
        except InputError as error:
            raise ValueError(error.message) from None
        return text

    def options(self, folder: Path) -> GroupOptions:
        """The same in the words of the server.

        Args:
            folder: Where the file lies.
        """
        place = Place(
            device=self.device,
            engine=self.engine,
            gpus=self.gpus,
            layout=self.layout,
            decode_ranks=self.decode_ranks,
            weights=self.weights,
            encoder=self.encoder,
        )
        model = str(folder / Path(self.model).expanduser()) if is_path(self.model) else self.model
        return GroupOptions(model=model, place=place, count=self.count, preload=self.preload, idle_s=self.idle_s)


class ServeConfig(KeepingConfig):
    """A whole server."""

    models: tuple[GroupConfig, ...] = Field(min_length=1, description="What is served.")
    default: str | None = Field(default=None, description="Taken where a request names no model. Default: the first.")
    address: str = Field(default="127.0.0.1:50051", description="Where gRPC listens.")
    http_port: int | Literal["free", "off"] = Field(default=8000, description="Port of HTTP on the same host.")
    data: Path | None = Field(default=None, description="Where renders and their store are kept.")
    tokens: Path | None = Field(default=None, description="File of tenants and their tokens.")
    tls_cert: Path | None = Field(default=None, description="Certificate chain (PEM).")
    tls_key: Path | None = Field(default=None, description="Its private key (PEM).")
    keep_days: float = Field(default=7.0, ge=0.001, le=3650, description="How long an ended render is kept.")
    keep_gb: float | None = Field(default=None, ge=0, le=1_000_000, description="Most GB of each tenant's ended ones.")
    grace_s: float = Field(default=GRACE_S, ge=0, description="How long running videos may take to end.")
    allow_urls: tuple[str, ...] = Field(default=(), description="Beginnings of addresses that conditions may name.")
    allow_webhooks: tuple[str, ...] = Field(default=(), description="Beginnings of addresses that may be told of ends.")

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        try:
            is_loopback(address)
        except InputError:
            raise ValueError("write HOST:PORT, such as 127.0.0.1:50051") from None
        return address

    @field_validator("http_port", mode="before")
    @classmethod
    def _check_port(cls, port: object) -> object:
        if port is False:  # what YAML makes of off
            return "off"
        if port not in ("free", "off") and not (type(port) is int and 1 <= port <= 65535):
            raise ValueError("it must be 1 to 65535, free or off")
        return port

    @field_validator("allow_urls", "allow_webhooks")
    @classmethod
    def _check_prefixes(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for text in texts:
                read_prefix(text)
        except InputError as error:
            raise ValueError(error.message) from None
        return texts

    @model_validator(mode="after")
    def _check_default(self) -> Self:
        names = [Path(group.model).name for group in self.models]
        if self.default is not None and self.default not in names:
            raise ValueError(f"default is {self.default!r}; it must be one of {', '.join(names)}")
        return self

    @property
    def ordered(self) -> tuple[GroupConfig, ...]:
        """The groups, the default one first."""
        return tuple(sorted(self.models, key=lambda group: Path(group.model).name != self.default))


def read_config(file: Path) -> ServeConfig:
    """Read and check a file.

    Raises:
        InputError: It cannot be read, or holds something else; the message names file, key, and what would be right.
    """
    try:
        with file.open("rb") as source:
            text = source.read(LARGEST_BYTES + 1)
        if len(text) > LARGEST_BYTES:
            raise InputError(f"'{file}' has more than {LARGEST_BYTES} bytes")
        said = yaml.load(text, _StrictLoader)  # noqa: S506  a safe one
    except OSError as error:
        raise InputError(f"'{file}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise InputError(f"'{file}' is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(said, Mapping):
        raise InputError(f"'{file}' must be a mapping that begins with 'models:'; see docs/service.md")
    try:
        return ServeConfig.model_validate(said)
    except ValidationError as error:
        raise InputError(f"'{file}': {_describe(error)}") from None


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `SafeLoader`.

        Raises:
            ConstructorError: A key is there twice.
        """
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _describe(error: ValidationError) -> str:
    """The first fault: its key, what it is, and what would be right."""
    fault = error.errors()[0]
    # What stands in a union adds the name of its branch, which is no key.
    where = [part for part in fault["loc"] if isinstance(part, int) or part in _keys() or fault["loc"][0] == "quotas"]
    if fault["type"] == "extra_forbidden":
        return _describe_unknown(fault["loc"])
    key = _path(where)
    if fault["type"] == "missing":
        return f"{key} is missing"
    told = fault["msg"].removeprefix("Value error, ")
    if not where:
        return told
    others = [one["msg"] for one in error.errors()[1:] if [*one["loc"][: len(where)]] == where]
    said = "; or: ".join(dict.fromkeys([told, *others]))
    return f"{key} is {_shorten(fault['input'])}: {said}"


def _describe_unknown(place: Sequence[int | str]) -> str:
    kind = _kind_at(place)
    known = list(kind.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{_path(place)} is no key; {hint}keys here: {', '.join(known)}"


def _kind_at(place: Sequence[int | str]) -> type[BaseModel]:
    """What an unknown key stands in."""
    if len(place) == 1:
        return ServeConfig
    if place[0] == "quotas":
        return QuotasConfig if len(place) == 2 else QuotaConfig
    return GroupConfig


def _path(place: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _keys() -> set[str]:
    return {*ServeConfig.model_fields, *GroupConfig.model_fields}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
