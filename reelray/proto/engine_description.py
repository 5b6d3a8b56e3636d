"""What an engine says of itself to whoever sends it requests."""

from dataclasses import dataclass, field

from reelray.proto.layout import Layout
from reelray.proto.model_facts import ModelFacts
from reelray.proto.residency import Residency


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineDescription:
    """A loaded engine.

    Args:
        facts: Geometry of its model.
        digest: Hex digest over the checkpoint's files.
        device: Such as ``cpu`` or ``NVIDIA H200``.
        dtype: Such as ``bfloat16``.
        load_s: Seconds it took to load the checkpoint.
        layout: How its ranks share their videos, at the start where they can be regrouped.
        residency: Where its weights are while they do not compute.
        decode_ranks: Ranks beside those of the layout that do nothing but decode.
    """

    facts: ModelFacts
    digest: str
    device: str
    dtype: str
    load_s: float = 0.0
    layout: Layout = field(default_factory=Layout)
    residency: Residency = field(default_factory=Residency)
    decode_ranks: int = 0
