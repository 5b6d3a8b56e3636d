"""From what a user asks to a validated request, before anything is loaded.

Every check that needs no weights is made here, so that a mistake costs milliseconds and not a model load.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from numbers import Integral, Real
from uuid import uuid4

from PIL import Image

from reelray.cluster.decoder_choice import choose_decoder
from reelray.cluster.first_frame import Picture, fit_picture, load_picture, size_for_picture
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.prompt_changes import Times, choose_changes, read_seconds
from reelray.proto.errors import InputError, PromptError, SizeError, UnsupportedError
from reelray.proto.model_facts import LONGEST_LATENT_FRAMES, ModelFacts
from reelray.proto.recipe import Recipe
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.sparsity_text import parse_sparsity

MAX_STEPS = 1000
"""The flow time axis has 1000 training steps; more denoise steps would repeat some."""
MAX_FPS = 240
MAX_GUIDANCE = 100.0
SHORTEST_PROMPT_LIMIT = 2000
CHARACTERS_PER_TOKEN = 16
"""No tokenizer packs ordinary text tighter; the exact limit, in tokens, is the text encoder's."""
OPTION_KINDS: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("prompt", "negative", "decoder", "sparsity"), str, "text"),
    (("frames", "seed", "steps"), Integral, "a whole number"),
    (("guidance", "fps", "pace"), Real, "a number"),
)
"""NumPy's numbers count too."""
STREAM_SECONDS = 60
"""How long a stream is of which no length was said, where the model can make so much."""
RANDOM_SEED_BITS = 32
"""Short enough to type again."""
MOST_DIGITS = 18
"""Of a side; Python reads no number of thousands of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderOptions:
    """What a user may say; None means the model's default.

    Args:
        prompt: What to show.
        seconds: Length, as a number or as text such as ``1:30``; rounded up to what the model can make. Excludes
            `frames`.
        frames: Pixel frames.
        size: Pixels, such as ``832x480``.
        seed: Noise seed; None draws one.
        steps: Denoise steps.
        guidance: Weight of classifier-free guidance; 1 switches it off.
        negative: What to avoid.
        image: First frame: a file, a PIL image or a uint8 array (H, W, 3).
        fps: Frames per second of the video.
        at: Prompts that follow the first, each with the time from which it holds; see `reelray.cluster.prompt_changes`.
        stream: Refuse models that make whole clips; the default length is then `STREAM_SECONDS`.
        decoder: ``full``, or ``preview`` for quick pictures that are not exact.
        sparsity: What of self-attention may be left out, such as ``sub_block,density=0.35``; see
            `reelray.proto.sparsity_text`.
        pace: Frames per second at which a stream is played while it is made: beside its forks, turns go by when its
            frames are due.

    Raises:
        InputError: A value is of another kind, such as ``frames="81"``.
    """

    prompt: str
    seconds: float | str | None = None
    frames: int | None = None
    size: str | tuple[int, int] | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    image: Picture | None = None
    fps: float | None = None
    at: Times | None = None
    stream: bool = False
    decoder: str | None = None
    sparsity: str | None = None
    pace: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.at, Sequence | None) or any(not is_change(change) for change in self.at or ()):
            raise InputError(
                f"at is {self.at!r}; it must be pairs of a time and a prompt, such as [('6s', 'it rains')]"
            )
        for names, kind, told in OPTION_KINDS:
            for name in names:
                value = getattr(self, name)
                if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                    raise InputError(f"{name} is {value!r}; it must be {told}")
        if self.prompt is None:
            raise InputError("prompt is None; it must be text")
        if not isinstance(self.size, str | None) and not is_pair(self.size):
            raise InputError(f"size is {self.size!r}; it must be text such as '832x480', or two whole numbers")


def is_change(value: object) -> bool:
    """Whether `value` holds a time and a prompt."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return False
    return isinstance(value[0], str | Real) and isinstance(value[1], str)


def is_pair(value: object) -> bool:
    """Whether `value` holds two whole numbers."""
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(side, Integral) for side in value)


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderJob:
    """A request with what only the client needs.

    Args:
        request: Goes to the engine.
        model: Where the weights are.
        fps: Of the written video.
    """

    request: RenderRequest
    model: ModelEntry
    fps: Fraction


def plan_job(options: RenderOptions, model: ModelEntry) -> RenderJob:
    """Check options against a model and fill in its defaults.

    Raises:
        InputError: An option is wrong; the message names it and what would be right.
    """
    recipe, facts = choose_decoder(options.decoder, model), model.facts
    prompt = check_text("prompt", options.prompt, facts)
    if not prompt:
        raise PromptError("the prompt is empty; say what the video shows")
    negative = recipe.defaults.negative_prompt if options.negative is None else options.negative
    fps = choose_fps(options.fps, recipe)
    picture = load_first_frame(options, model)
    width, height = choose_size(options.size, recipe, facts, picture_size=picture.size if picture else None)
    if options.stream and recipe.chunking.latent_frames is None:
        raise UnsupportedError(
            f"model '{model.name}' makes whole clips; a stream needs a model that makes its video chunk by chunk; "
            "for a clip take reelray render"
        )
    frames, chosen = choose_frames(options, recipe, facts, fps), choose_recipe(options, recipe)
    if options.stream:
        check_negative(options, chosen)
    request = RenderRequest(
        request_id=new_request_id(),
        prompt=prompt,
        negative_prompt=check_text("negative prompt", negative, facts),
        width=width,
        height=height,
        frames=frames,
        seed=choose_seed(options.seed),
        recipe=chosen,
        pace_fps=choose_pace(options.pace),
        sparsity=parse_sparsity(options.sparsity) if options.sparsity else None,
        changes=choose_changes(
            options.at, recipe, facts, frames=frames, fps=fps, check=partial(check_text, "prompt", facts=facts)
        ),
        image=fit_picture(picture, width, height) if picture else None,  # last: it alone takes time and memory
    )
    return RenderJob(request=request, model=model, fps=fps)


def new_request_id() -> RequestId:
    """A name that no other request has."""
    return RequestId(f"r-{uuid4().hex[:12]}")


def check_text(name: str, text: object, facts: ModelFacts) -> str:
    """Return the text without surrounding blanks.

    Raises:
        PromptError: It is far longer than the text encoder reads, or is no text.
    """
    if not isinstance(text, str):
        raise PromptError(f"the {name} is {text!r}; it must be text")
    limit = max(SHORTEST_PROMPT_LIMIT, CHARACTERS_PER_TOKEN * facts.text_tokens)
    if len(text) > limit:
        raise PromptError(
            f"the {name} has {len(text)} characters; this model reads at most {limit} "
            f"({facts.text_tokens} tokens); shorten it"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"the {name} is not valid UTF-8 text") from None
    if "\0" in text:
        raise PromptError(f"the {name} holds a NUL character; remove it")
    return text.strip()


def choose_fps(fps: float | None, recipe: Recipe) -> Fraction:
    """Frames per second as a fraction that video containers can hold.

    Raises:
        InputError: Not a number in (0, 240].
    """
    if fps is None:
        return Fraction(recipe.defaults.fps)
    if not math.isfinite(fps) or not 0 < fps <= MAX_FPS:
        raise InputError(f"fps is {fps:g}; it must be greater than 0 and at most {MAX_FPS}")
    chosen = Fraction(float(fps)).limit_denominator(1001)
    if not chosen:
        raise InputError(f"fps is {fps:g}; the slowest is 0.001")
    return chosen


def choose_frames(options: RenderOptions, recipe: Recipe, facts: ModelFacts, fps: Fraction) -> int:
    """Pixel frames: as asked, long enough for the seconds asked, or the default.

    Raises:
        InputError: Both were given, or seconds is no time greater than 0.
        SizeError: The count does not fit the temporal stride.
    """
    frames = count_frames(options, recipe, facts, fps)
    try:
        facts.latent_frames(frames, endless=recipe.is_endless)
    except SizeError as error:
        most = facts.frames(LONGEST_LATENT_FRAMES if recipe.is_endless else facts.positions or 1)
        if options.seconds is None or frames <= most:
            raise
        raise SizeError(
            f"seconds is {options.seconds}, and model '{recipe.name}' can make at most {most} frames: "
            f"{float(most / fps):.5g} s at {float(fps):g} frames per second",
            ids=error.ids,
        ) from None
    return frames


def count_frames(options: RenderOptions, recipe: Recipe, facts: ModelFacts, fps: Fraction) -> int:
    """Pixel frames that were asked for, whether or not the model can make them.

    Raises:
        InputError: Both were given, or seconds is no time greater than 0.
    """
    if options.frames is not None and options.seconds is not None:
        raise InputError("both frames and seconds were given; give one of them")
    if options.frames is not None:
        return int(options.frames)
    if options.seconds is not None:
        return _frames_of(Fraction(str(read_seconds(options.seconds, "seconds"))), facts, fps)
    if not options.stream:
        return recipe.defaults.frames
    frames = _frames_of(Fraction(STREAM_SECONDS), facts, fps)
    return frames if recipe.is_endless or facts.positions is None else min(frames, facts.frames(facts.positions))


def _frames_of(seconds: Fraction, facts: ModelFacts, fps: Fraction) -> int:
    """Pixel frames of the shortest video that the model can make of at least so many seconds."""
    wanted = math.ceil(seconds * fps)
    return facts.frames(math.ceil((wanted - 1) / facts.temporal_stride) + 1)


def choose_size(
    size: str | tuple[int, int] | None,
    recipe: Recipe,
    facts: ModelFacts,
    *,
    picture_size: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Width and height: as asked, in the picture's shape, or the default.

    Raises:
        SizeError: Not a size, or one that does not divide; the message names the nearest that does.
    """
    if size is None:
        width, height = recipe.defaults.width, recipe.defaults.height
        if picture_size is not None:
            width, height = size_for_picture(picture_size, width * height, facts)
    else:
        width, height = parse_size(size) if isinstance(size, str) else size
    try:
        facts.latent_size(width, height)
    except SizeError as error:
        near_width, near_height = nearest_size(width, height, facts)
        raise SizeError(f"size {width}x{height}: {error.message}; nearest size: {near_width}x{near_height}") from None
    return int(width), int(height)


def parse_size(text: str) -> tuple[int, int]:
    """Read ``WIDTHxHEIGHT``.

    Raises:
        SizeError: The text is something else.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) <= MOST_DIGITS for part in parts):
        raise SizeError(f"size is {text[:40]!r}; write WIDTHxHEIGHT in pixels, such as 832x480")
    return int(parts[0]), int(parts[1])


def nearest_size(width: int, height: int, facts: ModelFacts) -> tuple[int, int]:
    """The valid size nearest to the given one."""
    step_width, step_height = facts.spatial_stride * facts.patch[2], facts.spatial_stride * facts.patch[1]
    most = math.inf if facts.positions is None else facts.positions
    return (
        int(min(most, max(1, round(width / step_width)))) * step_width,
        int(min(most, max(1, round(height / step_height)))) * step_height,
    )


def choose_seed(seed: int | None) -> int:
    """The given seed, or a new one.

    Raises:
        InputError: Out of range.
    """
    if seed is None:
        return secrets.randbits(RANDOM_SEED_BITS)
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; it must lie in 0..{2**63 - 1}")
    return int(seed)


def choose_pace(pace: float | None) -> float | None:
    """The given pace in frames per second; None where there is none.

    Raises:
        InputError: Out of range.
    """
    if pace is not None and not 0 < pace <= MAX_FPS:
        raise InputError(f"pace is {pace:g}; it must be greater than 0 and at most {MAX_FPS} frames per second")
    return None if pace is None else float(pace)


def check_negative(options: RenderOptions, recipe: Recipe) -> None:
    """Refuse a negative prompt that would change nothing in a stream.

    Raises:
        UnsupportedError: Nothing is guided away from it.
    """
    if options.negative and not recipe.guidance.needs_unconditional:
        raise UnsupportedError(
            f"a negative prompt was given, and model '{recipe.name}' runs without guidance, which is what reads it; "
            "leave it out, or give a guidance other than 1"
        )


def choose_recipe(options: RenderOptions, recipe: Recipe) -> Recipe:
    """The model's recipe with the steps and the guidance of this request.

    Raises:
        InputError: Out of range.
        UnsupportedError: The model was distilled to a fixed list of steps.
    """
    schedule, guidance, steps = recipe.schedule, recipe.guidance, options.steps
    if options.guidance is not None:
        if not 0 <= options.guidance <= MAX_GUIDANCE:
            raise InputError(
                f"guidance is {options.guidance:g}; it must lie in 0..{MAX_GUIDANCE:g} (1 switches it off)"
            )
        guidance = replace(guidance, scale=float(options.guidance), per_step=())
    if steps is not None:
        if not 1 <= steps <= MAX_STEPS:
            raise InputError(f"steps is {steps}; it must lie in 1..{MAX_STEPS}")
        fixed = schedule.length if schedule.timesteps else len(guidance.per_step)
        if fixed and steps != fixed:
            why = "its list of steps is fixed" if schedule.timesteps else "its guidance is a list, one for each step"
            raise UnsupportedError(
                f"steps is {steps}, but model '{recipe.name}' is made for exactly {fixed} steps: {why}"
            )
        if recipe.chunking.stagger is not None and steps < recipe.chunking.stagger:
            raise InputError(
                f"steps is {steps}; chunks of model '{recipe.name}' are {recipe.chunking.stagger} steps apart, so it "
                "takes no fewer"
            )
        schedule = replace(schedule, steps=int(steps))
    return replace(recipe, schedule=schedule, guidance=guidance)


def load_first_frame(options: RenderOptions, model: ModelEntry) -> Image.Image | None:
    """Read the image of an image-to-video request.

    Raises:
        InputError: Missing, unreadable, or not wanted by this model.
    """
    wants_image = model.recipe.task == "i2v"
    if options.image is None:
        if wants_image:
            raise InputError(f"model '{model.name}' continues a picture; name it (--image FILE)")
        return None
    if not wants_image:
        raise UnsupportedError(f"model '{model.name}' makes videos from text alone and takes no image")
    return load_picture(options.image)
