"""What a benchmark measures, as data that travels to the ranks, and the seams it measures through.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reelray.proto.layout import Layout
from reelray.proto.model_facts import ModelFacts
from reelray.proto.model_sizes import ModelSizes

if TYPE_CHECKING:  # the command line reads this file; only ranks need torch
    import torch
    from torch import Tensor

    from reelray.workers.models.attention_op import Past
    from reelray.workers.models.sharding import Sharding
    from reelray.workers.samplers.guidance import Branch

PARTS = ("rates", "decode", "forward")
"""What can be measured, in this order."""
PEERS = ("diffusers", "xfuser")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSource:
    """A model to measure: its configurations, and its folder where there are weights.

    Args:
        family: Key of the model registry.
        transformer: The transformer's `config.json`.
        vae: The VAE's `config.json`; what it leaves out is the family's default.
        folder: Checkpoint whose weights are loaded; None draws them at random.
        facts: Geometry.
        sizes: Sizes of the networks.
    """

    family: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    folder: Path | None
    facts: ModelFacts
    sizes: ModelSizes


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelCase:
    """One model at one size.

    Args:
        source: The model.
        latent_frames: Latent frames of the window.
        rows: Latent height.
        columns: Latent width.
        layouts: Layouts to measure; each uses every rank, idle ones as replicas.
        head_groups: Numbers of head groups to try where a layout has ulysses.
        against: Names of other implementations.
        parts: Which of `PARTS` to measure.
        remembered: Latent frames before the window whose keys and values forwards attend too.
        runs: Timed runs of each contender.
        warmup: Untimed runs of each after the checked one.
        guidance: Weight of the guided step.
        stop_s: Seconds after the start of the ranks when no further round of timed runs begins.
        journal: Where rank 0 writes findings as they come; None writes nothing.
        seed: Of weights and inputs.
    """

    source: BenchSource
    latent_frames: int
    rows: int
    columns: int
    layouts: tuple[Layout, ...]
    head_groups: tuple[int, ...] = (1,)
    against: tuple[str, ...] = ()
    parts: tuple[str, ...] = PARTS
    remembered: int = 0
    runs: int = 5
    warmup: int = 1
    guidance: float = 3.0
    stop_s: float = 400.0
    journal: Path | None = None
    seed: int = 0

    @property
    def places(self) -> int:
        """Tokens of one latent frame."""
        _, height, width = self.source.facts.patch
        return (self.rows // height) * (self.columns // width)

    @property
    def tokens(self) -> int:
        """Tokens of the window."""
        return self.latent_frames * self.places


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Another implementation with the same weights.

    Args:
        alone: One forward on one rank.
        together: One forward on all ranks, which call it together.
    """

    alone: "Callable[[Any], Tensor] | None"
    together: "Callable[[Any], Tensor]"


class BenchModel(Protocol):
    """A model as a benchmark runs it; a family implements it.

    Attributes:
        device: Where it lies.
        dtype: Of its transformer.
        vae: Latent decoder, see `RowVae`; also has `new_decode_state()`.
        vae_dtype: Of the decoder.
    """

    device: "torch.device"
    dtype: "torch.dtype"
    vae: Any
    vae_dtype: "torch.dtype"

    def weights(self) -> "Iterable[Tensor]":
        """Tensors that must be the same on every rank."""
        ...

    def draw_inputs(self, latent_frames: int, rows: int, columns: int, *, first: int = 0, seed: int) -> Any:
        """Draw latents, a timestep and the texts of both branches; the window begins at latent frame `first`."""
        ...

    def draw_past(self, tokens: int, window: int, *, ranks: int, index: int, seed: int) -> "Past":
        """Draw the keys and values of earlier tokens, for the heads that one of several ulysses ranks computes."""
        ...

    def predict(self, inputs: Any, branch: "Branch", sharding: "Sharding") -> "Tensor":
        """Evaluate the transformer for one branch; float32, whole on every rank of the sharding."""
        ...

    def close(self) -> None:
        """Free what holds groups of ranks; before they end."""
        ...

    def open_peer(self, name: str, ranks: int) -> Peer:
        """Give the same weights to another implementation; every rank calls it.

        Args:
            name: One of `PEERS`.
            ranks: Ranks of the world.

        Raises:
            UnsupportedError: The package is not installed, or does not serve this model.
        """
        ...
