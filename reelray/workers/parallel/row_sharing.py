"""Decoding by rows of the picture over the ranks of a lane."""

from typing import Any

from torch import Tensor

from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.parallel.vae_rows import GroupRows, RowParallelVae

COLLECTOR = 0
"""Index of the rank that collects pictures and states."""


class RowSharing:
    """Implements `PictureSharing`.

    Args:
        group: The ranks of the lane, from the top of the picture to the bottom.
        scale: Pixels per latent, along height and along width.
    """

    def __init__(self, group: AxisGroup, *, scale: int) -> None:
        self._group = group
        self._scale = scale
        self._rows: dict[int, GroupRows] = {}

    def fits(self, latent_rows: int) -> bool:
        """See `PictureSharing`."""
        return latent_rows >= self._group.size

    def decode(self, vae: Any, latents_BCTHW: Tensor, state: Any) -> Tensor | None:
        """See `PictureSharing`."""
        shared = self._share(vae, latents_BCTHW.shape[3])
        return shared.gather_pixels(shared.decode(latents_BCTHW, state), to=COLLECTOR)

    def gather_state(self, vae: Any, state: Any, latent_rows: int) -> Any:
        """See `PictureSharing`."""
        return self._share(vae, latent_rows).gather_state(state, to=COLLECTOR)

    def cut_state(self, vae: Any, whole: Any, latent_rows: int) -> Any:
        """See `PictureSharing`."""
        return self._share(vae, latent_rows).cut_state(whole)

    def _share(self, vae: Any, latent_rows: int) -> RowParallelVae:
        if latent_rows not in self._rows:
            self._rows[latent_rows] = GroupRows(self._group.process_group, latent_rows)
        return RowParallelVae(vae, self._rows[latent_rows], scale=self._scale)
