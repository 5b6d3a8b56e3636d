"""Which attention a video may leave out, as data: a part of its request."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class SparseMethod(StrEnum):
    """How the blocks of keys that a block of queries attends are chosen."""

    # Fixed by the grid of the video.
    RADIAL = "radial"  # fewer the farther two frames lie apart
    SLIDING_TILE = "sliding_tile"  # a box of tiles around the query's own
    FRAME_DIAGONAL = "frame_diagonal"  # the query's frames and some reference frames
    STRIPES = "stripes"  # the query's neighbours and some blocks that differ from head to head
    BLOCK_DIAGONAL = "block_diagonal"  # the query's own group of blocks
    # Found in queries and keys, without training.
    SUB_BLOCK = "sub_block"  # means of parts of a block, added up as attention adds them
    BLOCK_MEAN = "block_mean"  # means of whole blocks
    SPARGE = "sparge"  # means of blocks that are alike in themselves; the others are attended and attend all
    ANTIDIAGONAL = "antidiagonal"  # sums along the antidiagonals of a block of scores
    DRAFT = "draft"  # means of patches of a frame
    CHUNKS = "chunks"  # means of whole segments of the video, along other axes in every layer
    HEAD_CLASSES = "head_classes"  # each head looks within frames or along time, whichever loses less
    # Learned with the checkpoint.
    VSA = "vsa"  # means of cubes, and a gate between coarse and fine attention
    SLA = "sla"  # means of blocks, and linear attention over the others


class TokenOrderKind(StrEnum):
    """In which order the tokens of a window are laid, so that a block of them is a piece of the video."""

    AUTO = "auto"  # that of the method, or else the curve
    FRAMES = "frames"  # frame by frame, row by row, as the model has them
    TILES = "tiles"  # boxes of frames, rows and columns that divide the grid
    CURVE = "curve"  # along a Hilbert curve, the first frame apart; every grid fits
    PATCHES = "patches"  # patches of 8 rows and 16 columns of one frame, not full at the edges
    CUBES = "cubes"  # cubes of 4 x 4 x 4 tokens, not full at the edges


TRAINED = frozenset({SparseMethod.VSA, SparseMethod.SLA})
FIXED = frozenset(
    {
        SparseMethod.RADIAL,
        SparseMethod.SLIDING_TILE,
        SparseMethod.FRAME_DIAGONAL,
        SparseMethod.STRIPES,
        SparseMethod.BLOCK_DIAGONAL,
    }
)
BY_MASS = frozenset({SparseMethod.SUB_BLOCK, SparseMethod.BLOCK_MEAN, SparseMethod.SPARGE, SparseMethod.ANTIDIAGONAL})
BLOCK_ROWS = (64, 128)
_BY_FRAME = (
    TokenOrderKind.FRAMES,
    TokenOrderKind.PATCHES,
    TokenOrderKind.TILES,
    TokenOrderKind.CUBES,
    TokenOrderKind.CURVE,
)
ORDERS: Mapping[SparseMethod, tuple[TokenOrderKind, ...]] = MappingProxyType(
    {
        SparseMethod.RADIAL: (TokenOrderKind.FRAMES,),
        SparseMethod.SLIDING_TILE: (TokenOrderKind.TILES, TokenOrderKind.CUBES, TokenOrderKind.PATCHES),
        SparseMethod.FRAME_DIAGONAL: _BY_FRAME,
        SparseMethod.HEAD_CLASSES: _BY_FRAME,
        SparseMethod.ANTIDIAGONAL: (TokenOrderKind.CURVE, TokenOrderKind.FRAMES, TokenOrderKind.TILES),
        SparseMethod.DRAFT: (TokenOrderKind.PATCHES,),
        SparseMethod.VSA: (TokenOrderKind.CUBES,),
        SparseMethod.SLA: (TokenOrderKind.FRAMES,),
    }
)
"""The orders that a method takes, its default first; a method that is not here takes all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A number that one method has besides the others' settings.

    Args:
        default: What it is where nothing is said.
        least: Smallest value.
        most: Largest value.
        by_mass: What it is where nothing is said and the mass decides; `default` if None.
        whole: Whether it counts something.
    """

    default: float
    least: float
    most: float
    by_mass: float | None = None
    whole: bool = False

    def check(self, name: str, value: float) -> None:
        """Refuse what the method cannot take.

        Raises:
            ValueError: Names the option and the allowed values.
        """
        if not math.isfinite(value) or not self.least <= value <= self.most or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            raise ValueError(f"options[{name!r}] is {value}; it must be {kind} in {self.least:g}..{self.most:g}")


MOST = 4096
"""Largest count: more blocks than any block of a window is apart from another."""


def _count(default: int, least: int = 1, most: int = MOST) -> Option:
    return Option(default=default, least=least, most=most, whole=True)


OPTIONS: Mapping[SparseMethod, Mapping[str, Option]] = MappingProxyType(
    {
        SparseMethod.RADIAL: {"decay": Option(default=0.2, least=0.0, most=1000.0), "near_frames": _count(0, 0, 1)},
        SparseMethod.SLIDING_TILE: {
            "window_frames": _count(3),
            "window_rows": _count(3),
            "window_columns": _count(3),
        },
        SparseMethod.FRAME_DIAGONAL: {"reach": _count(0, 0), "references": _count(2, 0)},
        SparseMethod.STRIPES: {"reach": _count(1, 0), "every": _count(8)},
        SparseMethod.BLOCK_DIAGONAL: {"blocks": _count(8)},
        SparseMethod.SUB_BLOCK: {"parts": _count(4, most=128)},
        SparseMethod.SPARGE: {"similarity": Option(default=-0.1, by_mass=0.6, least=-1.0, most=1.0)},
        SparseMethod.ANTIDIAGONAL: {"stride": _count(16, most=128)},
        SparseMethod.HEAD_CLASSES: {"samples": _count(32, most=1024)},
    }
)
"""What each method can be told besides; a method that is not here takes none."""


ROUNDING = 1e-4
"""By which timesteps in float32 may miss the way that they stand for; less than a step of a thousand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsityPolicy:
    """What of self-attention may be left out, when, and how it is chosen.

    Either `densities` says how much is attended or `mass` how much of the softmax must be; a fixed pattern goes by its
    options instead and reads neither. Text is no part of self-attention here, and is always attended.

    Args:
        method: How blocks are chosen.
        densities: Share of the blocks of keys that is attended. Several are used one after the other, each for the same
            share of the steps that are not dense; they must not grow.
        mass: Share of the softmax, as the method estimates it, that the chosen blocks must have.
        order: Order of the tokens.
        rows: Most tokens of a block.
        dense_share: Share of the way from noise to picture, at its beginning, that is computed densely; see
            `progress`. Not a number of steps, so that few-step schedules and many-step ones keep the same part.
        dense_layers: First layers that are always dense.
        first_frame: Always attend the blocks that hold the first latent frame: as many as it fills in frame order and
            along the curve, and a layer of tiles where a tile has several frames.
        neighbours: Always attend so many blocks before and after the query's own, and its own; -1 does not.
        compensate: Let the means of blocks that are left out stand for them. None goes by the method: where blocks are
            chosen without training.
        refresh: Steps after which blocks are chosen anew.
        least_recall: Choose anew also where the share of the softmax that the kept blocks had falls below this share of
            what it was; 0 does not look.
        forced: Leave out what may be left out even where dense attention is as fast.
        options: Numbers of the method; see `OPTIONS`.

    Raises:
        ValueError: Names the field and the allowed values.
    """

    method: SparseMethod = SparseMethod.SUB_BLOCK
    densities: tuple[float, ...] = (0.35,)
    mass: float | None = None
    order: TokenOrderKind = TokenOrderKind.AUTO
    rows: int = 128
    dense_share: float = 0.2
    dense_layers: int = 2
    first_frame: bool = True
    neighbours: int = 1
    compensate: bool | None = None
    refresh: int = 1
    least_recall: float = 0.0
    forced: bool = False
    options: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._check_amount()
        self._check_numbers()
        self._check_fit()
        allowed = OPTIONS.get(self.method, {})
        for name, value in self.options.items():
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                raise ValueError(f"options holds {name!r}; {self.method} takes {known}")
            allowed[name].check(name, value)

    def option(self, name: str) -> float:
        """A number of the method, or its default."""
        option = OPTIONS[self.method][name]
        default = option.default if self.mass is None or option.by_mass is None else option.by_mass
        return self.options.get(name, default)

    @property
    def compensates(self) -> bool:
        """Whether means stand for the blocks that are left out."""
        return self.method not in TRAINED | FIXED if self.compensate is None else self.compensate

    @property
    def token_order(self) -> TokenOrderKind:
        """The order of the tokens, never `AUTO`."""
        if self.order is not TokenOrderKind.AUTO:
            return self.order
        return ORDERS.get(self.method, (TokenOrderKind.CURVE,))[0]

    def dense_at(self, progress: float, layer: int) -> bool:
        """Whether a layer is to be computed densely.

        Args:
            progress: See the function of this name.
            layer: Index of the layer, 0 first.
        """
        return layer < self.dense_layers or progress < self.dense_share - ROUNDING

    def density_at(self, progress: float) -> float | None:
        """Share of the blocks that is attended; None where the mass decides.

        Args:
            progress: See the function of this name.
        """
        if self.mass is not None:
            return None
        way = (progress - self.dense_share) / (1 - self.dense_share) if self.dense_share < 1 else 0.0
        place = int(way * len(self.densities) + ROUNDING)
        return self.densities[min(max(place, 0), len(self.densities) - 1)]

    def _check_amount(self) -> None:
        if self.mass is not None:
            if not 0 < self.mass <= 1:
                raise ValueError(f"mass is {self.mass}; it must lie in 0..1 and not be 0, or be None")
            if self.method not in BY_MASS:
                raise ValueError(f"mass is {self.mass}; it goes with {', '.join(sorted(BY_MASS))}, not {self.method}")
            return
        if not self.densities or any(not 0 < density <= 1 for density in self.densities):
            raise ValueError(f"densities is {list(self.densities)}; it needs entries in 0..1, none of them 0")
        if any(late > early for early, late in zip(self.densities, self.densities[1:], strict=False)):
            raise ValueError(f"densities is {list(self.densities)}; they must not grow")

    def _check_numbers(self) -> None:
        if self.rows not in BLOCK_ROWS:
            raise ValueError(f"rows is {self.rows}; allowed are {', '.join(map(str, BLOCK_ROWS))}")
        for name in ("dense_share", "least_recall"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0..1")
        for name, least in (("dense_layers", 0), ("neighbours", -1), ("refresh", 1)):
            if not least <= getattr(self, name) <= MOST:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in {least}..{MOST}")

    def _check_fit(self) -> None:
        taken = ORDERS.get(self.method)
        if taken and self.order not in {TokenOrderKind.AUTO, *taken}:
            raise ValueError(f"order is {self.order}; {self.method} takes {', '.join(('auto', *taken))}")
        if self.least_recall and self.refresh == 1:
            raise ValueError(f"least_recall is {self.least_recall}; with refresh=1 no list is kept that could lose any")
        if self.method in TRAINED and self.compensate:
            raise ValueError(f"compensate is True; {self.method} was trained with what stands for the other blocks")
        cubes = TokenOrderKind.CUBES in {self.order, self.token_order}
        if cubes and self.rows != 64:
            raise ValueError(f"rows is {self.rows}; cubes have 64 tokens")
        if TokenOrderKind.PATCHES in {self.order, self.token_order} and self.rows != 128:
            raise ValueError(f"rows is {self.rows}; patches have 128 tokens")


def progress(sigma: float, shift: float = 1.0) -> float:
    """How far a noise level lies on the way from noise (0) to picture (1), the timestep shift taken off.

    Of a schedule of N even steps under this shift the i-th, from 0 on, lies at i / N.

    Args:
        sigma: Noise level in 0..1.
        shift: Timestep shift of the schedule.

    Raises:
        ValueError: A number lies outside.
    """
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma is {sigma}; it must lie in 0..1")
    if shift <= 0:
        raise ValueError(f"shift is {shift}; it must be above 0")
    return 1 - sigma / (shift - (shift - 1) * sigma)


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsityUse:
    """How much was left out.

    Args:
        calls: Evaluations of a layer's self-attention.
        dense: How many of them were dense.
        attended: Sum over the others of the share of blocks that was attended.
        refusal: Why nothing was left out; empty where something was.
    """

    calls: int = 0
    dense: int = 0
    attended: float = 0.0
    refusal: str = ""

    @property
    def density(self) -> float | None:
        """Mean share of the blocks that was attended where not all were; None where all were."""
        sparse = self.calls - self.dense
        return self.attended / sparse if sparse else None

    def __add__(self, other: "SparsityUse") -> "SparsityUse":
        return SparsityUse(
            calls=self.calls + other.calls,
            dense=self.dense + other.dense,
            attended=self.attended + other.attended,
            refusal=self.refusal or other.refusal,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsityReport:
    """What became of a request's sparsity.

    Args:
        policy: What was asked for.
        use: How much was left out.
    """

    policy: SparsityPolicy
    use: SparsityUse = field(default_factory=SparsityUse)
