"""Which layers of a model each rank of the pipe axis has."""

from itertools import accumulate, pairwise

from reelray.proto.errors import UnsupportedError


def split_layers(layers: int, ranks: int) -> tuple[range, ...]:
    """Cut the layers into one consecutive range per rank, as even as can be.

    The first rank also embeds and the last one predicts, so layers that are left over go to inner ranks first, and to
    the last rank never.

    Args:
        layers: Layers of the model.
        ranks: Ranks of the pipe axis.

    Raises:
        UnsupportedError: There are fewer layers than ranks.
    """
    if layers < ranks:
        raise UnsupportedError(f"{layers} layers cannot be shared by pipe={ranks}; each rank needs at least one")
    base, extra = divmod(layers, ranks)
    longer = [*range(1, ranks - 1), 0][:extra]
    ends = list(accumulate((base + (rank in longer) for rank in range(ranks)), initial=0))
    return tuple(range(start, stop) for start, stop in pairwise(ends))
