"""What houses and the coordinator tell each other. A house is a process with engines and callers of its own.

Times are seconds from the moment in which they are said: clocks of two machines have nothing in common.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from reelray.proto.layout import Layout
from reelray.proto.model_facts import ModelFacts
from reelray.proto.model_sizes import ModelSizes
from reelray.proto.recipe import Recipe
from reelray.proto.request import RequestId
from reelray.proto.residency import Residency
from reelray.scheduler.fleet.decision import Reason
from reelray.scheduler.fleet.ticket import EngineId, Kind, Service


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What of a video decides its cost.

    Args:
        width: Pixels.
        height: Pixels.
        frames: Pixel frames.
        recipe: How it is sampled.
    """

    width: int
    height: int
    frames: int
    recipe: Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOffer:
    """An engine that takes work.

    Args:
        engine_id: Unique among all houses.
        model: What it has loaded.
        digest: Of its files.
        facts: Geometry of the model.
        sizes: Of its networks, where its files are here.
        layout: How its ranks share videos; each lane makes one at a time.
        decode_ranks: Ranks beside those that do nothing but decode.
        residency: Where its weights are.
        on_gpus: Whether it computes on GPUs.
        memory_bytes: Of each rank; 0 where nobody counts.
        pace: Seconds that its work takes for each predicted one, as measured; 1 where nothing was.
        together: Requests that each lane takes at once, because they share forwards.
    """

    engine_id: EngineId
    model: str
    digest: str
    facts: ModelFacts
    sizes: ModelSizes | None
    layout: Layout
    decode_ranks: int
    residency: Residency
    on_gpus: bool
    memory_bytes: int = 0
    pace: float = 1.0
    together: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A request for a place.

    Args:
        request_id: Unique among all houses; a render's is its job's.
        model: Its name.
        clip: What is to be made; None where nobody can say.
        tenant: Whose.
        kind: A stream must have begun by its deadline, a render must be finished.
        service: Whether somebody waits.
        priority: Of the tenant's own.
        within_s: Until its deadline; None without one.
        waited_s: That it has waited.
        left: Share of the work that is left.
        lasts_s: It takes no less, however fast its engine is: it is played while it is made.
    """

    request_id: RequestId
    model: str
    clip: Clip | None
    tenant: str
    kind: Kind = Kind.RENDER
    service: Service = Service.INTERACTIVE
    priority: int = 0
    within_s: float | None = None
    waited_s: float = 0.0
    left: float = 1.0
    lasts_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What runs in a house.

    Args:
        wish: What was asked for; with a deadline only where that was promised, to a render.
        engine_id: Where.
        gpus: On how many GPUs.
        run: Of the decision that began it.
        left: Share of the whole work that is left.
        is_render: Whether it is a job of the store.
    """

    wish: Wish
    engine_id: EngineId
    gpus: int
    run: int
    left: float
    is_render: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A house comes, or comes again: all that it has.

    Args:
        house: Its name.
        engines: That take work.
        runs: What runs on them.
        waiting: What waits for a place, in the order in which it came.
    """

    house: str
    engines: tuple[EngineOffer, ...] = ()
    runs: tuple[Run, ...] = ()
    waiting: tuple[Wish, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCame:
    """An engine takes work from now on, or says anew how fast it is."""

    offer: EngineOffer


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineWent:
    """An engine takes no more work; what runs there is its house's business."""

    engine_id: EngineId


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Somebody wants a place on an engine of this house."""

    wish: Wish


@dataclass(frozen=True, kw_only=True, slots=True)
class Inquired:
    """Somebody wants to submit a render with a deadline: say whether that can be kept, and keep it for a moment.

    The answer is `Waits` or `Turned`.

    Args:
        wish: What the store will hold.
    """

    wish: Wish


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """It runs no more, however it ended, or does so without its place: that is free.

    Args:
        request_id: What ran.
        run: Of the decision that began it.
        pace: Seconds that the engine's work takes for each predicted one, as measured so far.
    """

    request_id: RequestId
    run: int
    pace: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeRoom:
    """A render was put down because it was asked to; it waits again.

    Args:
        request_id: The render.
        run: Of the decision that began it.
        left: Share of the whole work that is left.
    """

    request_id: RequestId
    run: int
    left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """Nobody wants it any more; it had no place yet."""

    request_id: RequestId


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """How far something is that runs.

    Args:
        request_id: What runs.
        run: Of the decision that began it.
        remaining_s: Seconds until its end, as it gets on.
    """

    request_id: RequestId
    run: int
    remaining_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LookedFor:
    """Renders were submitted, or something became of one: look at the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HowStands:
    """Somebody watches a render: say once how it stands, if it waits."""

    request_id: RequestId


Report: TypeAlias = (
    Joined | EngineCame | EngineWent | Asked | Inquired | Ended | MadeRoom | Left | Moved | LookedFor | HowStands
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """It waits.

    Args:
        request_id: The request.
        position: Place among all that wait for its model, in order of arrival; 1 is first, 0 does not wait.
        start_s: Predicted seconds until it begins; None where nobody can say.
    """

    request_id: RequestId
    position: int
    start_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin:
    """Begin it, or go on with it.

    Args:
        request_id: The request.
        engine_id: Where.
        gpus: On how many GPUs.
        run: Say it in all reports; no two decisions have the same.
        work_s: Seconds that it takes by the table, at pace 1; 0 where nobody can say.
        left: Share of the whole work that is left.
        render: The render's wish, with its deadline where that is promised; None for what the house asked for itself.
    """

    request_id: RequestId
    engine_id: EngineId
    gpus: int
    run: int
    work_s: float
    left: float = 1.0
    render: Wish | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeRoom:
    """Put a render down at its next commit or step.

    Args:
        request_id: The render.
        run: Of the decision that began it.
    """

    request_id: RequestId
    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Turned:
    """It gets no place.

    Args:
        request_id: The request.
        reason: Why.
        finish_s: Predicted seconds until it would have been finished; None where nobody can say.
        retry_after_s: When to ask again; None where that would not help.
    """

    request_id: RequestId
    reason: Reason
    finish_s: float | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How much the engines of a model have to do, those of all houses together.

    Args:
        model: Its name.
        queue_s: Seconds that all its GPUs would work on what waits; None where it has none.
        busy: Share of its GPUs that work.
        waiting: Requests that wait.
        gpus: It has.
    """

    model: str
    queue_s: float | None
    busy: float
    waiting: int
    gpus: int


Decision: TypeAlias = Waits | Begin | MakeRoom | Turned | Load


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A decision with the fence of whoever made it."""

    fence: int
    decision: Decision = field()
