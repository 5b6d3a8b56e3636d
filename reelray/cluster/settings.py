"""Settings from the environment: the only place that reads it.

Every name of ours starts with `REELRAY_`; an option given on the command line or in Python wins over it.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from reelray.proto.errors import InputError
from reelray.scheduler.plan.machine import MAX_GPUS


class Settings(BaseSettings):
    """What a machine or a user sets once."""

    model_config = SettingsConfigDict(env_prefix="REELRAY_", frozen=True, extra="ignore", env_ignore_empty=True)

    model: str = Field(default="sprites", description="Model that is used when none is named.")
    model_path: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description=f"Folders that hold checkpoint folders, separated by '{os.pathsep}'."
    )
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("reelray"),
        description="Where reelray keeps what outlives a run; checkpoints in its `models` folder are found.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where models run.")
    engine: Literal["ray", "local"] = Field(
        default="ray", description="`ray` runs the engine in an embedded Ray cluster, `local` in the same process."
    )
    gpus: int = Field(
        default=1, ge=1, le=MAX_GPUS, description="How many GPUs share a video; processes where `device` is `cpu`."
    )
    layout: str = Field(
        default="", description="How they share it, such as cfg=2,ulysses=2; empty lets the plan choose."
    )
    weights: Literal["auto", "resident", "sharded", "offloaded"] = Field(
        default="auto", description="Where the transformer's blocks are; `auto` lets the plan choose."
    )
    encoder: Literal["auto", "resident", "released"] = Field(
        default="auto", description="Whether the encoders of text and image stay on the GPU."
    )
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="What streams may remember on each GPU, in GB (10^9 bytes). Default: what all else leaves.",
    )
    mark_chunks: int | None = Field(
        default=None,
        ge=1,
        description="Chunks after which a live stream leaves a mark in host memory, so that going back is quick.",
    )
    host_memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Host memory for streams that are paused, in GB (10^9 bytes). Default: half of what is free.",
    )

    batch: str = Field(
        default="off",
        pattern="^(auto|off|[1-9][0-9]*)$",
        description="How many requests may share a forward at most, or `off`, which leaves each request its bits; "
        "`auto`: several on a CPU, none on GPUs.",
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens up to which a forward takes about as long as a smaller one: as many are shared. "
        "Default: as measured on two CPU cores.",
    )
    batch_invariant: bool = Field(
        default=False,
        description="Give each request the bits that it gets alone, also where it shares forwards with others.",
    )
    redis_url: str | None = Field(
        default=None,
        repr=False,
        description="Store of jobs, leases and sessions: redis://, rediss:// or unix://. Default: one of this machine.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Key by which `reelray serve` signs webhooks: whsec_ and 24 to 64 bytes in base64."
    )
    redis_prefix: str = Field(default="reelray", description="Separates deployments that share a store.")

    @field_validator("model_path", mode="before")
    @classmethod
    def _split_path(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part)
        return value

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Folders searched for checkpoints, in this order, before those shipped with the package."""
        return (*self.model_path, self.data_dir / "models")


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        InputError: A variable holds a value that is not allowed; the message names variable and allowed values.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = variable_name("_".join(str(part) for part in first["loc"]))
        raise InputError(f"{name} is '{first.get('input')}': {first['msg']}") from None


def visible_devices() -> int | None:
    """How many GPUs `CUDA_VISIBLE_DEVICES` leaves to this process; None where it is not set."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None else len([name for name in names.split(",") if name.strip() not in {"", "-1"}])


def variable_name(field: str) -> str:
    """Environment variable of a setting."""
    return "REELRAY_" + field.upper()
