"""How a Wan model decodes: by its full VAE, alone or with other ranks, or by a tiny decoder.

Shape suffixes: C channels, T latent frames, H/W latent height/width, F pixel frames.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reelray.proto.decoder import Decoder
from reelray.proto.errors import SnapshotError, UnsupportedError
from reelray.workers.models.free_memory import free_bytes
from reelray.workers.models.sharding import DecodeParts, PictureSharing
from reelray.workers.models.wan.recoding import WanRecoder
from reelray.workers.models.wan.taehv.model import Taehv, TaehvState
from reelray.workers.models.wan.vae import WanVae
from reelray.workers.models.wan.vae.state import CausalState, DecodeState, Tiling, read_kind

DECODE_SHARE = 0.8
"""Part of the free memory that a video's decoder may plan with; the rest is for transformers that run between."""
_STATES: dict[str, type[CausalState]] = {kind.KIND: kind for kind in (DecodeState, TaehvState)}
_STATE_OF = {Decoder.WAN_EXACT_STREAM: DecodeState, Decoder.TAEHV_STREAM: TaehvState}


class LatentDecoding:
    """The part of `VideoModel` that makes pictures.

    Args:
        vae: Decodes what is to be exact.
        preview: Decodes previews, whole on every rank; None where there is none.
        device: Where they compute.
    """

    def __init__(self, vae: WanVae, preview: Taehv | None, device: torch.device) -> None:
        self._vae, self._preview = vae, preview
        self._place = device
        self._room: Callable[[int], Tensor | None] | None = None
        self.decode_alone()

    def decode_alone(self) -> None:
        """Forget with whom pictures were shared, and how they were cut."""
        self._pictures: PictureSharing | None = None
        self._settled: dict[torch.Size, Tiling | None] = {}  # by latent rows and columns

    def new_decode_state(self, decoder: Decoder = Decoder.WAN_EXACT_STREAM) -> CausalState:
        """See `VideoModel.new_decode_state`.

        Raises:
            UnsupportedError: It is a preview's, and there is no decoder for that.
        """
        return self._tiny.new_decode_state() if decoder.is_preview else self._vae.new_decode_state()

    def new_recoder(self, reach: int) -> WanRecoder:
        """See `VideoModel.new_recoder`."""
        return WanRecoder(self._vae, reach, self._place, self._choose_tiling)

    def use_picture_sharing(self, sharing: PictureSharing | None) -> bool:
        """See `VideoModel.use_picture_sharing`."""
        self._pictures = sharing
        return True

    def pack_decode_state(self, state: CausalState, *, latent_rows: int) -> bytes:
        """See `VideoModel.pack_decode_state`."""
        whole, sharing = state, self._sharing_of(latent_rows, state)
        if sharing is not None:
            whole = sharing.gather_state(self._vae, state, latent_rows)
        return b"" if whole is None else whole.to_bytes()

    def unpack_decode_state(self, data: bytes, *, decoder: Decoder, latent_rows: int) -> CausalState:
        """See `VideoModel.unpack_decode_state`.

        Raises:
            SnapshotError: It is the state of another decoder, or of one with other weights.
        """
        kind, wanted = read_kind(data), _STATE_OF[decoder]
        if kind != wanted.KIND:
            raise SnapshotError(f"what was written down is the state of decoder {kind}; {decoder} cannot go on from it")
        whole: CausalState = wanted.from_bytes(data, self._place)
        if decoder.is_preview and whole.weights != self._tiny.digest:
            raise SnapshotError(
                f"what was written down was decoded by a tiny decoder of other weights: by {whole.weights}, and this "
                f"one's are {self._tiny.digest}"
            )
        sharing = self._sharing_of(latent_rows, whole)
        if sharing is None:
            return whole
        part: DecodeState = sharing.cut_state(self._vae, whole, latent_rows)
        return part

    @torch.no_grad()
    def decode(self, latents_1CTHW: Tensor, state: CausalState, *, waits: bool = True) -> Tensor:
        """See `VideoModel.decode`. A video that does not fit the device's free memory when it begins is cut into tiles.

        Raises:
            ResourceError: Not even the smallest tile fits.
        """
        if isinstance(state, TaehvState):
            levels_FHWC = _levels(self._tiny.decode(latents_1CTHW.to(self._place), state), span=1.0)
            return self._bring_home(levels_FHWC, waits=waits)
        vae, sharing = self._vae, self._sharing_of(latents_1CTHW.shape[3], state)
        raw_1CTHW = vae.denormalise(latents_1CTHW.to(self._place).float())
        if sharing is not None:
            levels_1FHWC = sharing.decode(vae, raw_1CTHW, state)
            nothing = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
            return nothing if levels_1FHWC is None else self._bring_home(levels_1FHWC[0], waits=waits)
        assert isinstance(state, DecodeState)
        if state.latent_frames == 0 and state.tiling is None:
            state.tiling = self._choose_tiling(latents_1CTHW)
        return self._bring_home(_levels(vae.decode(raw_1CTHW, state), span=2.0), waits=waits)

    def use_landing(self, room: Callable[[int], Tensor | None]) -> None:
        """See `VideoModel.use_landing`."""
        self._room = room

    def _bring_home(self, levels_FHWC: Tensor, *, waits: bool) -> Tensor:
        """Copy to the CPU; to page-locked memory, which torch keeps for the next piece, a copy is ten times faster."""
        landing_X = None if self._room is None else self._room(levels_FHWC.numel())
        if landing_X is not None:
            return landing_X.view(levels_FHWC.shape).copy_(levels_FHWC, non_blocking=not waits)
        if levels_FHWC.device.type != "cuda":
            return levels_FHWC
        home_FHWC = torch.empty(levels_FHWC.shape, dtype=levels_FHWC.dtype, pin_memory=True)
        return home_FHWC.copy_(levels_FHWC, non_blocking=not waits)

    def settle_decode(self, latents_1CTHW: Tensor, state: CausalState) -> None:
        """See `VideoModel.settle_decode`."""
        if isinstance(state, DecodeState):
            self._settled[latents_1CTHW.shape[3:]] = state.tiling

    def take_apart(self, state: CausalState) -> DecodeParts:
        """See `VideoModel.take_apart`."""
        splits = state.tiling is None and not isinstance(state, TaehvState)
        return DecodeParts(facts=state.facts, slots=state.slots, splits=splits)

    def put_together(self, parts: DecodeParts) -> CausalState:
        """See `VideoModel.put_together`."""
        return _STATES[parts.facts["kind"]].build(parts.facts, parts.slots)

    @property
    def _tiny(self) -> Taehv:
        if self._preview is None:
            raise UnsupportedError("this checkpoint was opened without a preview decoder")
        return self._preview

    def _sharing_of(self, latent_rows: int, state: CausalState) -> PictureSharing | None:
        """Who decodes this video with this rank; previews, and what was cut into tiles, are whole on every rank."""
        if isinstance(state, TaehvState) or state.tiling is not None or self._pictures is None:
            return None
        return self._pictures if self._pictures.fits(latent_rows) else None

    def _choose_tiling(self, latents_1CTHW: Tensor) -> Tiling | None:
        size = latents_1CTHW.shape[3:]
        return self._settled[size] if size in self._settled else self._fit_tiling(latents_1CTHW)

    def _fit_tiling(self, latents_1CTHW: Tensor) -> Tiling | None:
        free = free_bytes(self._place)
        vae, (*_, latent_frames, rows, columns) = self._vae, latents_1CTHW.shape
        side, latent_frames = vae.config.spatial_ratio, max(latent_frames, vae.latents_per_call)
        return vae.choose_tiling(rows * side, columns * side, latent_frames, int(free * DECODE_SHARE))


def _levels(pixels_1CFHW: Tensor, *, span: float) -> Tensor:
    """Levels of 255 [F, H, W, C] of pixels in a range that is `span` wide and ends at 1."""
    levels_CFHW = pixels_1CFHW[0].float().mul(255.0 / span).add(255.0 - 255.0 / span).round().clamp(0, 255)
    return levels_CFHW.to(torch.uint8).permute(1, 2, 3, 0).contiguous()
