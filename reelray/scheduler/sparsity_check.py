"""Whether a request's sparsity goes with the rest of it, and with the layouts of an engine."""

from collections.abc import Sequence

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.request import RenderRequest
from reelray.proto.sparsity import TRAINED


def check_sparsity(request: RenderRequest, layouts: Sequence[Layout]) -> None:
    """Refuse what sparse attention does not go with.

    Raises:
        UnsupportedError: The request is a stream or approximated by patches too, a layout has a ring, or the method
            needs trained tensors.
    """
    if request.sparsity is None:
        return
    if request.sparsity.method in TRAINED:
        raise UnsupportedError(
            f"sparsity {request.sparsity.method} takes a checkpoint that was trained with it, and reads none yet; "
            "sub_block needs no training"
        )
    if request.patching is not None:
        raise UnsupportedError("patches and sparsity are both approximate, and do not go together: leave one out")
    if request.recipe.memory is not None or request.recipe.chunking.latent_frames is not None:
        raise UnsupportedError("sparsity is for whole clips, and this one is made chunk by chunk: leave it out")
    for layout in layouts:
        if layout.ring > 1:
            raise UnsupportedError(
                f"layout {layout} has a ring, which passes keys on part by part, and sparse attention chooses among "
                "all keys of a head: share tokens by ulysses in place of ring"
            )
