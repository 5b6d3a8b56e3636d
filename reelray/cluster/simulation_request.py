"""From options to a simulation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from reelray.cluster.calibration import load_calibration
from reelray.cluster.plan_request import parse_memory
from reelray.cluster.services import Services
from reelray.cluster.simulation_costs import CostBook, EngineKind
from reelray.proto.errors import InputError
from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.policy import POLICIES
from reelray.scheduler.fleet.ticket import EngineId
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.simulation.arrival import Arrival, Happening
from reelray.scheduler.simulation.poisson import PREFIX, Poisson
from reelray.scheduler.simulation.records import Record
from reelray.scheduler.simulation.result import SimulationResult, sum_up
from reelray.scheduler.simulation.simulation import SimulatedFleet, Simulation
from reelray.scheduler.simulation.trace import read_trace

MOST_GPUS = 100_000
MOST_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationOptions:
    """What a user may say.

    Args:
        trace: A file, the name of a trace that comes with reelray, or ``poisson:...``.
        gpus: Of all engines together.
        engine_gpus: Of one engine.
        gpu_memory: Of each GPU, such as ``80GB``; None takes that of the calibration table.
        links: What joins the GPUs of an engine.
        policy: One of `POLICIES`.
        model: For requests that name none; None takes the setting.
        error: Share by which true times differ from predicted ones at most.
        seed: Of these differences.
    """

    trace: str
    gpus: int = 8
    engine_gpus: int = 8
    gpu_memory: str | None = None
    links: str = "nvlink"
    policy: str = "fair"
    model: str | None = None
    error: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRun:
    """A simulation and what it came to.

    Args:
        options: What was asked for.
        model: For requests that name none.
        table: Name of the calibration table.
        result: The sums.
        records: Of every request.
    """

    options: SimulationOptions
    model: str
    table: str
    result: SimulationResult
    records: Sequence[Record]


def run_simulation(options: SimulationOptions, services: Services) -> SimulatedRun:
    """Simulate.

    Raises:
        InputError: An option or a line of the trace is not right.
        ResourceError: A request fits into no engine.
    """
    if options.policy not in POLICIES:
        raise InputError(f"policy is '{options.policy}'; policies are {', '.join(POLICIES)}")
    if not 1 <= options.engine_gpus <= 64 or not options.engine_gpus <= options.gpus <= MOST_GPUS:
        raise InputError(
            f"{options.gpus} GPUs in engines of {options.engine_gpus}; engines have 1 to 64, all up to {MOST_GPUS}"
        )
    table = load_calibration()
    memory = table.memory_bytes if options.gpu_memory is None else parse_memory(options.gpu_memory)
    kind = EngineKind(gpus=options.engine_gpus, memory_bytes=memory, link=Link(options.links))
    model = options.model or services.load_settings().model
    book = CostBook(kind, model, services)
    happenings = list(name_models(read_happenings(options.trace), model))
    simulated = SimulatedFleet(
        engines=list_engines(happenings, options, book, memory),
        policy=POLICIES[options.policy],
        error=options.error,
        seed=options.seed,
    )
    simulation = Simulation(simulated, book.cost)
    records = simulation.run(happenings)
    gpus = sum(engine.gpus for engine in simulated.engines)
    result = sum_up(records, gpus=gpus, events=simulation.count)
    return SimulatedRun(options=options, model=model, table=table.name, result=result, records=records)


def read_happenings(trace: str) -> Iterable[Happening]:
    """Read a trace, or draw it.

    Raises:
        InputError: There is no such trace, or it is not right.
    """
    if trace.startswith(PREFIX):
        return Poisson.parse(trace).arrivals()
    shipped = resources.files("reelray.scheduler.simulation") / "traces" / f"{trace}.jsonl"
    path = Path(trace)
    if "/" not in trace and not path.exists() and shipped.is_file():
        return read_trace(shipped.read_text().splitlines())
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise InputError(f"the trace {trace} has more than {MOST_BYTES >> 20} MiB")
        return read_trace(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(
            f"the trace {trace} cannot be read: {reason} (traces that come with reelray: {', '.join(list_traces())})"
        ) from None


def list_traces() -> list[str]:
    """Names of the traces that come with reelray."""
    folder = resources.files("reelray.scheduler.simulation") / "traces"
    return sorted(file.name.removesuffix(".jsonl") for file in folder.iterdir() if file.name.endswith(".jsonl"))


def name_models(happenings: Iterable[Happening], model: str) -> Iterable[Happening]:
    """Let requests that name no model want this one."""
    for happening in happenings:
        if isinstance(happening, Arrival) and not happening.shape.model:
            yield replace(happening, shape=replace(happening.shape, model=model))
        else:
            yield happening


def list_engines(
    happenings: Sequence[Happening], options: SimulationOptions, book: CostBook, memory_bytes: int
) -> tuple[EngineFacts, ...]:
    """Engines, dealt to the models of the trace in turn.

    Raises:
        InputError: A model is unknown, or there are more models than engines.
    """
    shapes = sorted({h.shape for h in happenings if isinstance(h, Arrival)}, key=repr)
    models = sorted({shape.model for shape in shapes})
    count = options.gpus // options.engine_gpus
    if count < len(models):
        raise InputError(f"the trace names {len(models)} models; {count} engines cannot serve them all")
    if not models:
        raise InputError("no request comes; raise rate or seconds")
    taken = {shape.model: 0.0 for shape in shapes}
    for shape in shapes:
        book.cost(shape)
        taken[shape.model] = max(taken[shape.model], book.weights_bytes(shape))
    return tuple(
        EngineFacts(
            engine_id=EngineId(f"engine-{number}"),
            model=(model := models[number % len(models)]),
            gpus=options.engine_gpus,
            memory_bytes=int(options.engine_gpus * (memory_bytes - taken[model])),
        )
        for number in range(count)
    )
