"""What the application is built from: the `args` of a Serve config."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reelray.cluster.gateway.serving import GRACE_S, is_loopback
from reelray.cluster.outbound.allow_list import read_prefix
from reelray.cluster.render_plan import Place
from reelray.cluster.serve_config.keeping import KeepingConfig, QuotasConfig
from reelray.proto.errors import InputError
from reelray.proto.layout import Layout
from reelray.scheduler.plan.machine import MAX_GPUS
from reelray.workers.actor import RANK_CPUS

Resources = dict[str, Annotated[float, Field(gt=0)]]
CLOSED = ConfigDict(extra="forbid", frozen=True)


class ModelArguments(BaseModel):
    """A model and where its engine runs; each engine lies on one machine."""

    model_config = CLOSED

    model: str = Field(min_length=1, description="Its name, or its folder on the machines of the engines.")
    device: Literal["cuda", "cpu"] = Field(default="cuda", description="What computes.")
    gpus: int = Field(default=1, ge=1, le=MAX_GPUS, description="GPUs of the engine; processes on a CPU.")
    layout: str = Field(default="", description="How they share a video; empty lets the plan choose.")
    decode_ranks: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="How many of them do nothing but decode."
    )
    weights: Literal["auto", "resident", "sharded", "offloaded"] = Field(default="auto")
    encoder: Literal["auto", "resident", "released"] = Field(default="auto")
    cpus: float = Field(default=1.0, ge=1.0, description="CPUs to book beside the GPUs.")
    resources: Resources = Field(default={}, description="Ray's custom resources to book, which choose the machine.")
    spare: bool = Field(default=False, description="There is room for a second engine while this one is replaced.")

    @field_validator("layout")
    @classmethod
    def _check_layout(cls, text: str) -> str:
        if text:
            _as_value_error(Layout.parse, text)
        return text

    @property
    def name(self) -> str:
        """What callers name it."""
        return Path(self.model).name

    @property
    def place(self) -> Place:
        """The same in the words of the plan."""
        return Place(
            device=self.device,
            engine="ray",
            gpus=self.gpus,
            layout=self.layout or None,
            weights=self.weights,
            encoder=self.encoder,
            decode_ranks=self.decode_ranks,
        )

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Places of a placement group: of the leader, then of each rank; of both at once where there is one rank."""
        leader = {"CPU": self.cpus, **self.resources}
        if self.gpus == 1:
            return [{**leader, "GPU": 1.0} if self.device == "cuda" else leader]
        rank = {"GPU": 1.0} if self.device == "cuda" else {"CPU": RANK_CPUS}
        return [leader, *([rank] * self.gpus)]


class GatewayArguments(KeepingConfig):
    """Where callers come in."""

    address: str = Field(default="127.0.0.1:50051", description="Where each gateway listens, on its own machine.")
    replicas: int = Field(default=1, ge=1, description="How many there are; those of one machine share the port.")
    cpus: float = Field(default=1.0, ge=0, description="CPUs that each books.")
    resources: Resources = Field(default={}, description="Ray's custom resources that each books.")
    spare: bool = Field(default=False, description="There is room for one more of each while they are replaced.")
    token_file: Path | None = Field(default=None, description="File that holds what callers must say, of a secret.")
    tokens_file: Path | None = Field(default=None, description="File of lines of TENANT TOKEN, of a secret.")
    http_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Where each listens for OpenAI's clients, on the same host; needs files.",
    )
    files: str | None = Field(
        default=None,
        min_length=1,
        description="Where all gateways keep files of renders: a folder of theirs all, or a URL that fsspec knows.",
    )
    keep_days: float = Field(default=7.0, gt=0, le=3650, description="How long an ended render and its file are kept.")
    keep_gb: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Most GB for files of each tenant's ended renders."
    )
    allow_urls: tuple[str, ...] = Field(
        default=(), description="Beginnings of addresses from which conditions may be fetched."
    )
    allow_webhooks: tuple[str, ...] = Field(
        default=(), description="Beginnings of addresses that ends of renders may be told to; needs the key's variable."
    )
    tls_certificate: Path | None = Field(default=None, description="Certificate chain (PEM), on each machine.")
    tls_key: Path | None = Field(default=None, description="Its private key (PEM).")

    @field_validator("allow_urls", "allow_webhooks")
    @classmethod
    def _check_addresses(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            _as_value_error(read_prefix, text)
        return texts

    @model_validator(mode="after")
    def _check_guard(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; give both or none")
        if self.files is None and (self.allow_urls or self.allow_webhooks):
            raise ValueError("allow_urls and allow_webhooks are for gateways that keep something; give files")
        if self.files is None and self.quotas != QuotasConfig():
            raise ValueError("quotas are counted in the store of gateways that keep something; give files")
        guards = (self.token_file, self.tokens_file, self.tls_certificate)
        if not _as_value_error(is_loopback, self.address) and not any(guards):
            raise ValueError(
                f"{self.address} can be reached from other machines; give token_file or tokens_file, or "
                "tls_certificate and tls_key"
            )
        if self.http_port is not None and self.files is None:
            raise ValueError("http_port answers for renders that are kept; give files, too")
        return self


class AppArguments(BaseModel):
    """The whole application."""

    model_config = CLOSED

    models: tuple[ModelArguments, ...] = Field(min_length=1, description="What is served; the first is the default.")
    gateway: GatewayArguments = Field(default_factory=GatewayArguments)
    grace_s: float = Field(default=GRACE_S, ge=0, description="How long running videos may take to end.")

    @field_validator("models")
    @classmethod
    def _check_names(cls, models: tuple[ModelArguments, ...]) -> tuple[ModelArguments, ...]:
        names = [model.name for model in models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"model {twice[0]!r} was named twice; each is served once")
        return models


def _as_value_error(check: Any, text: str) -> Any:
    """Pydantic reports `ValueError` with the place of the value."""
    try:
        return check(text)
    except InputError as error:
        raise ValueError(error.message) from None
