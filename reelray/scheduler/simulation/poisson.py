"""Makes traffic of independent requests from one line: ``poisson:rate=2,mix=17/49/81,interactive=0.3``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from reelray.proto.errors import InputError
from reelray.scheduler.fleet.ticket import Kind, Service, TenantId
from reelray.scheduler.simulation.arrival import Arrival, Shape
from reelray.scheduler.simulation.draws import Draws

PREFIX = "poisson:"
MOST_REQUESTS = 10_000_000
"""They are all held in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Poisson:
    """Traffic.

    Args:
        rate: Requests per second.
        mix: Frames and weight of each length.
        interactive: Share of requests for which somebody waits.
        streams: Share of these that are streams.
        slo: Deadline of interactive renders, as a multiple of their time alone.
        within_s: So soon streams must have begun.
        tenants: That send alike.
        seconds: For which requests come.
        seed: Of the draws.
    """

    rate: float = 1.0
    mix: tuple[tuple[int, float], ...] = ((17, 1.0), (49, 1.0), (81, 1.0))
    interactive: float = 0.0
    streams: float = 0.0
    slo: float = 3.0
    within_s: float = 5.0
    tenants: int = 1
    seconds: float = 3600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf") or not 0 < self.seconds < float("inf"):
            raise InputError(f"rate is {self.rate} and seconds {self.seconds}; they must be greater than 0")
        if self.rate * self.seconds > MOST_REQUESTS:
            raise InputError(
                f"rate times seconds is {self.rate * self.seconds:.3g}; at most {MOST_REQUESTS:,} requests"
            )
        for name in ("interactive", "streams"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie in 0..1")
        if self.tenants < 1 or self.slo <= 0 or self.within_s <= 0:
            raise InputError("tenants, slo and within must be greater than 0")
        if not self.mix or any(frames < 1 or not 0 < weight < float("inf") for frames, weight in self.mix):
            raise InputError("mix needs lengths such as 17/49/81, or 17:3/81:1 with weights greater than 0")

    @classmethod
    def parse(cls, text: str) -> "Poisson":
        """Read ``poisson:`` and the fields, such as ``poisson:rate=2,mix=17:1/81:2,interactive=0.3,tenants=4``.

        Raises:
            InputError: A field is unknown or no number.
        """
        values: dict[str, Any] = {}
        for part in text.removeprefix(PREFIX).split(","):
            name, equals, value = part.strip().partition("=")
            if not equals or name not in READERS:
                raise InputError(f"{part!r} is not understood; poisson: takes {', '.join(READERS)}, each as name=value")
            try:
                values["within_s" if name == "within" else name] = READERS[name](value)
            except ValueError:
                raise InputError(
                    f"{name} is {value!r}, which is no number, or not of lengths such as 17/49/81"
                ) from None
        return cls(**values)

    def arrivals(self) -> Iterator[Arrival]:
        """The requests, in order of time."""
        draws, at_s = Draws(self.seed), 0.0
        total = sum(weight for _, weight in self.mix)
        while (at_s := at_s + draws.wait(self.rate)) < self.seconds:
            frames = self._frames(draws.uniform() * total)
            waits, streams = draws.uniform() < self.interactive, draws.uniform() < self.streams
            kind = Kind.STREAM if waits and streams else Kind.RENDER
            yield Arrival(
                at_s=at_s,
                shape=Shape(frames=frames, kind=kind),
                tenant=TenantId(f"tenant-{int(draws.uniform() * self.tenants)}"),
                service=Service.INTERACTIVE if waits else Service.BATCH,
                within_s=self.within_s if kind is Kind.STREAM else None,
                slo=self.slo if waits and kind is Kind.RENDER else None,
            )

    def _frames(self, drawn: float) -> int:
        for frames, weight in self.mix:
            drawn -= weight
            if drawn < 0:
                return frames
        return self.mix[-1][0]


def _read_mix(text: str) -> tuple[tuple[int, float], ...]:
    parts = [part.partition(":") for part in text.split("/")]
    return tuple((int(frames), float(weight or 1.0)) for frames, _, weight in parts)


READERS: dict[str, Callable[[str], object]] = {
    "rate": float,
    "mix": _read_mix,
    "interactive": float,
    "streams": float,
    "slo": float,
    "within": float,
    "tenants": int,
    "seconds": float,
    "seed": int,
}
