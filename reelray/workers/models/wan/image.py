"""The first frame of an i2v video: CLIP's view of it, and the latent condition beside the noise.

Shape suffixes: B batch, S tokens, C channels, T latent frames, F pixel frames, H/W pixels or latent cells.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from reelray.workers.models.wan.clip import PREPROCESS_MEAN, PREPROCESS_STD, ClipVision
from reelray.workers.models.wan.vae import WanVae


def embed_image(clip: ClipVision, image_HWC: Tensor) -> Tensor:
    """Show an image to CLIP: bring it to the square of its input, normalise.

    Args:
        clip: The vision tower; its configuration says how the image becomes square.
        image_HWC: RGB uint8.

    Returns:
        Hidden states of shape 1, S, C.
    """
    frame = _crop if clip.config.framing == "crop" else _stretch
    square_CHW = frame(image_HWC, clip.config.image_size)
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (PREPROCESS_MEAN, PREPROCESS_STD))
    pixels_1CHW = ((square_CHW - mean_C11) / std_C11)[None]
    try:
        hidden: Tensor = clip(pixels_1CHW.to(clip.class_embedding.device))
    finally:
        clip.source.release()
    return hidden


def _crop(image_HWC: Tensor, size: int) -> Tensor:
    """Resize the shorter side and cut out the middle, in 8 bits; transformers' processing."""
    image = Image.fromarray(image_HWC.cpu().numpy())
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    cropped = resized[top : top + size, left : left + size].astype(np.float32) / 255
    return torch.from_numpy(cropped).permute(2, 0, 1)


def _stretch(image_HWC: Tensor, size: int) -> Tensor:
    """Resize both sides, in floats and without a low-pass; values may leave 0..1. The original release's processing."""
    image_1CHW = image_HWC.cpu().permute(2, 0, 1)[None].float() / 127.5 - 1
    resized_1CHW = F.interpolate(image_1CHW, size=(size, size), mode="bicubic", align_corners=False)
    return resized_1CHW[0] / 2 + 0.5


def build_condition(vae: WanVae, image_HWC: Tensor, *, frames: int) -> Tensor:
    """Build what the transformer sees beside the noise: a mask and the latents of the frame followed by grey.

    The mask has one channel per pixel frame of a latent frame: 1 where the frame is given. The first latent frame
    stands for one pixel frame, so all its channels are 1.

    Args:
        vae: Encoder; computes in its own dtype.
        image_HWC: RGB uint8 at the size of the video.
        frames: Pixel frames of the video.

    Returns:
        Float32 of shape 1, stride + latent channels, T, H, W.
    """
    stride = vae.config.temporal_ratio
    device = vae.latents_mean.device
    first_CHW = image_HWC.to(device).permute(2, 0, 1).float() / 127.5 - 1
    latents_1CTHW = vae.normalise(_encode_then_grey(vae, first_CHW[None, :, None], frames).float())
    mask_1CTHW = torch.zeros_like(latents_1CTHW[:, :1]).repeat(1, stride, 1, 1, 1)
    mask_1CTHW[:, :, 0] = 1
    return torch.cat([mask_1CTHW, latents_1CTHW], dim=1)


def _encode_then_grey(vae: WanVae, first_1C1HW: Tensor, frames: int) -> Tensor:
    """Encode a frame and the grey frames after it, one latent frame at a time: the whole clip would not fit."""
    stride, state = vae.config.temporal_ratio, vae.new_encode_state()
    means = [vae.encode(first_1C1HW, state)[0]]
    grey_1CFHW = torch.zeros_like(first_1C1HW).repeat(1, 1, stride, 1, 1)
    means += [vae.encode(grey_1CFHW, state)[0] for _ in range((frames - 1) // stride)]
    return torch.cat(means, dim=2)
