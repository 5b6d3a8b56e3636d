"""A render as a job's spec: all that decides its frames, as JSON that another machine can read next week."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any, Self

from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.plain_json import from_plain, to_plain
from reelray.cluster.render import RANDOM_SEED_BITS, RenderJob
from reelray.cluster.renders.artifact import INPUTS, Artifact
from reelray.cluster.store.names import check_name, digest_of
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.request import RenderRequest, RequestId

VERSION = 2
NAMELESS = RequestId("render")
"""Engines need a name; each attempt gives its own, so that equal wishes are equal specs."""
_FIELDS = {"version", "model", "digest", "fps", "media", "picture", "request"}


class MediaForm(StrEnum):
    """What comes out."""

    MP4 = "mp4"  # H.264 in fragments; grows at its end only


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderSpec:
    """One video, every default filled in, wherever it is going to be made.

    Args:
        model: Its name.
        digest: Of the model's files; only that model makes these frames.
        request: What to make, without a name and without its picture.
        fps: Frames per second.
        picture: File of its first frame: RGB bytes (H, W, 3 uint8) at the request's size. None for text alone.
        media: What comes out.
    """

    model: str
    digest: str
    request: RenderRequest
    fps: Fraction
    picture: Artifact | None = None
    media: MediaForm = MediaForm.MP4

    def __post_init__(self) -> None:
        if self.request.image is not None or self.request.request_id != NAMELESS:
            raise ValueError("the request of a spec has neither a name nor a picture: see `RenderSpec.of`")
        if self.fps <= 0:
            raise ValueError(f"fps is {self.fps}; it must be greater than 0")
        wanted = self.request.width * self.request.height * 3
        if self.picture is not None and self.picture.size_bytes != wanted:
            raise ValueError(f"the picture has {self.picture.size_bytes} bytes; {wanted} were expected")

    @classmethod
    def of(cls, job: RenderJob, digest: str, picture: Artifact | None = None) -> Self:
        """The spec of a planned job.

        Args:
            job: What `plan_job` made of a wish.
            digest: Of the model that is to make it: `EngineDescription.digest`.
            picture: Where `job.request.image` lies, if there is one.

        Raises:
            UnsupportedError: What it attends cannot be made again after a loss.
        """
        sparsity = job.request.sparsity
        if sparsity is not None and sparsity.refresh > 1:
            raise UnsupportedError(
                f"sparsity has refresh={sparsity.refresh}, and a kept render must go on with the same frames after a "
                "loss, when the lists of earlier steps are gone: take refresh=1"
            )
        assert (picture is None) == (job.request.image is None), "the picture is written first"
        return cls(
            model=job.model.name,
            digest=digest,
            request=replace(job.request, request_id=NAMELESS, image=None),
            fps=job.fps,
            picture=picture,
        )

    def to_json(self) -> dict[str, Any]:
        """What the store keeps; equal specs have equal JSON."""
        return {
            "version": VERSION,
            "model": self.model,
            "digest": self.digest,
            "fps": str(self.fps),
            "media": self.media.value,
            "picture": to_plain(self.picture),
            "request": to_plain(self.request),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, and nothing else.

        Raises:
            InputError: It is something else, or of another build; the message names the field.
        """
        if value.get("version") != VERSION:
            told = repr(value.get("version"))[:40]
            raise InputError(f"the job's spec has version {told}; this build reads version {VERSION}")
        if value.keys() != _FIELDS:
            raise InputError(f"the job's spec has the fields {sorted(value)}; {sorted(_FIELDS)} were expected")
        try:
            return cls(
                model=_text(value, "model"),
                digest=_text(value, "digest"),
                request=from_plain(RenderRequest, value["request"]),
                fps=Fraction(_text(value, "fps")),
                picture=None if value["picture"] is None else from_plain(Artifact, value["picture"]),
                media=MediaForm(value["media"]),
            )
        except (ValueError, TypeError, ZeroDivisionError, InputError) as error:
            raise InputError(f"the job's spec cannot be read: {' '.join(str(error).split())}") from None

    def job(self, model: ModelEntry, name: RequestId, image: bytes | None = None) -> RenderJob:
        """The job as `plan_job` made it, under another name.

        Args:
            model: What makes it.
            name: Unique in the engine.
            image: Bytes of its picture, if it has one.
        """
        assert (image is None) == (self.picture is None), "the picture is read first"
        return RenderJob(request=replace(self.request, request_id=name, image=image), model=model, fps=self.fps)


def queue_of(model: str) -> str:
    """Queue of a model's jobs: its name where that is fit for a key."""
    try:
        return check_name("queue", model)
    except InputError:
        return f"model-{digest_of(model)[:32]}"


def seed_for_key(tenant: str, key: str) -> int:
    """Seed of a wish that names none, so that its repetition with the same key is the same wish."""
    return int(digest_of(f"{tenant}:{key}")[:16], 16) % (1 << RANDOM_SEED_BITS)


def picture_place(tenant: str) -> tuple[str, str, str, str]:
    """Where pictures of a tenant go: what `Artifacts.write` takes besides the bytes."""
    return tenant, INPUTS, "picture", ".rgb"


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str) or not text:
        raise ValueError(f"{name} is {text!r}; it must be text")
    return text
