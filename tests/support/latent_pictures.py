"""A model whose pictures are the bits of its latents: for comparisons of videos in which no decoder has a part."""

import pickle
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.workers.models.sharding import DecodeParts


@dataclass
class Pictures:
    """Memory of one video: what was decoded last, so that pictures tell when it is lost."""

    before_1C1HW: Tensor | None = None
    latent_frames: int = 0


class LatentPictures:
    """Whatever the model does, but for its decoder.

    Every latent frame makes as many pictures as the VAE of Wan does. Their red is the latent frame bit by bit, the
    other colours the one before it.

    Args:
        model: A loaded checkpoint with 16 channels of latents.
    """

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def new_decode_state(self, decoder=None):  # noqa: ARG002
        return Pictures()

    def decode(self, latents_1CTHW, state, *, waits=True):  # noqa: ARG002
        pictures = []
        for latent_1C1HW in latents_1CTHW.float().split(1, dim=2):
            before_1C1HW = torch.zeros_like(latent_1C1HW) if state.before_1C1HW is None else state.before_1C1HW
            picture_HWC = torch.stack([show(latent_1C1HW), show(before_1C1HW), show(before_1C1HW)], 2)
            pictures += [picture_HWC] * (4 if state.latent_frames else 1)
            state.before_1C1HW, state.latent_frames = latent_1C1HW.clone(), state.latent_frames + 1
        return torch.stack(pictures)

    def settle_decode(self, latents_1CTHW, state):
        pass

    def pack_decode_state(self, state, *, latent_rows):  # noqa: ARG002
        return pickle.dumps(state)

    def unpack_decode_state(self, data, *, decoder, latent_rows):  # noqa: ARG002
        return pickle.loads(data)

    def take_apart(self, state):
        slots = () if state.before_1C1HW is None else (state.before_1C1HW,)
        return DecodeParts(facts=state.latent_frames, slots=slots, splits=False)

    def put_together(self, parts):
        return Pictures((*parts.slots, None)[0], parts.facts)


def show(latent_1C1HW):
    """Bytes of 16 channels of fp32 as a picture of eight times the height and width."""
    height, width = latent_1C1HW.shape[3:]
    return latent_1C1HW.contiguous().flatten().view(torch.uint8).reshape(8 * height, 8 * width)
