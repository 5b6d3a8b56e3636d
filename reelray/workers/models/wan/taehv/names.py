"""Names of a `taew2_1` file: one numbered list of layers, of which those without weights have numbers too."""

from collections.abc import Mapping

from reelray.workers.models.wan.taehv.config import BLOCKS, RATES

_BLOCK_CONVS = {"0": "first", "2": "second", "4": "third"}
STAGE_LAYERS = BLOCKS + 3
"""Memory blocks, upsampling, growth, convolution."""
FIRST_STAGE = 3
"""After bending, the entry and its ReLU."""
ENTRY, EXIT = 1, FIRST_STAGE + len(RATES) * STAGE_LAYERS + 1


def grow_index(stage: int) -> int:
    """Number of the layer by which a stage makes frames."""
    return FIRST_STAGE + stage * STAGE_LAYERS + BLOCKS + 1


def _layers() -> Mapping[int, str]:
    layers = {ENTRY: "entry", EXIT: "exit"}
    for stage in range(len(RATES)):
        begin = FIRST_STAGE + stage * STAGE_LAYERS
        layers |= {begin + block: f"stages.{stage}.blocks.{block}" for block in range(BLOCKS)}
        layers |= {grow_index(stage): f"stages.{stage}.grow", grow_index(stage) + 1: f"stages.{stage}.narrow"}
    return layers


LAYERS = _layers()


def rename_tensor(name: str) -> str | None:
    """Name a file's tensor as `Network` does; None for those of the encoder. Strange names stay as they are."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return None
    number, _, leaf = rest.partition(".")
    if part != "decoder" or not number.isdecimal() or int(number) not in LAYERS:
        return name
    ours = LAYERS[int(number)]
    sequence, _, parameter = leaf.removeprefix("conv.").rpartition(".")
    if ".blocks." in ours:
        return f"{ours}.{_BLOCK_CONVS.get(sequence, sequence)}.{parameter}"
    return f"{ours}.{parameter}"
