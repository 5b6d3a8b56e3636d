"""Keys and values that one denoise step leaves for the next: of all patches of a window, in the layers of this rank.

Shape suffixes: B batch, S tokens, N heads, D head width, P rotated pairs of a head.
"""

from torch import Tensor

from reelray.kernels.attention.api import attend
from reelray.proto.errors import SizeError
from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.parallel.token_split import TokenSplit


def split_patches(frames: int, places: int, patches: int) -> tuple[TokenSplit, ...]:
    """Cut a window into patches: of every latent frame each has a range of places.

    So a timestep per latent frame still fits every patch, and patches differ by one place per frame at most; whole
    frames would be few and unequal parts.

    Raises:
        SizeError: There are fewer places than patches.
    """
    if places < patches:
        raise SizeError(f"a latent frame of {places} tokens cannot be cut into {patches} patches")
    return tuple(TokenSplit(frames=frames, places=places, ulysses=patches, index=index) for index in range(patches))


class PatchKeys:
    """Keys and values of one branch of guidance, patch by patch; a step overwrites those of the step before.

    Args:
        patches: How the window is cut.
    """

    def __init__(self, patches: tuple[TokenSplit, ...]) -> None:
        self.patches = patches
        self._layers: dict[int, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(held.nbytes for held in self._layers.values())

    def put(self, layer: int, patch: TokenSplit, k_BSND: Tensor, v_BSND: Tensor) -> tuple[Tensor, Tensor]:
        """Overwrite those of a patch; returns those of all patches, one patch after the other."""
        batch, _, heads, width = k_BSND.shape
        frames, places = patch.frames, patch.places
        if layer not in self._layers:
            self._layers[layer] = k_BSND.new_empty(2, batch, frames * places, heads, width)
        share = patch.shares[patch.index]
        keys_BSND, values_BSND = self._layers[layer].unbind(0)
        keys_BSND[:, frames * share.start : frames * share.stop].copy_(k_BSND)
        values_BSND[:, frames * share.start : frames * share.stop].copy_(v_BSND)
        return keys_BSND, values_BSND


class KeepingAttention:
    """Implements `AttentionOp` for a whole window: attends as ever, and keeps keys and values.

    Args:
        attention: Attends.
        keys: Where to keep.
    """

    rotates = False
    repeats = True

    def __init__(self, attention: AttentionOp, keys: PatchKeys) -> None:
        self._attention = attention
        self._keys = keys

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """See `AttentionOp`."""
        for patch in self._keys.patches:
            self._keys.put(layer, patch, patch.take(k_BSND), patch.take(v_BSND))
        return self._attention(q_BSND, k_BSND, v_BSND, layer=layer, cos_BSP=cos_BSP, sin_BSP=sin_BSP)


class PatchAttention:
    """Implements `AttentionOp` for one patch over all patches.

    Its own keys and values and those of the patches that have passed in this step are of this step, the others of the
    step before.

    Args:
        patch: The patch.
        keys: Keys and values of all patches.
    """

    rotates = False
    repeats = True

    def __init__(self, patch: TokenSplit, keys: PatchKeys) -> None:
        self._patch = patch
        self._keys = keys

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """See `AttentionOp`."""
        del cos_BSP, sin_BSP
        return attend(q_BSND, *self._keys.put(layer, self._patch, k_BSND, v_BSND))
