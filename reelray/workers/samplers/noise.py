"""Gaussian noise that depends on the seed, the chunk and the denoise step, and on nothing else.

It is drawn on the CPU in float32, so that every rank count, batch and interrupted run sees the same numbers.
Latent frames are drawn one after another, each as its own C, H, W block in C order: frame `t` of a draw does not
depend on how many frames follow it. torch seeds its CPU generator with 32 bits, the low half of the hash below.

Shape suffixes: C channels, T latent frames, H/W latent height/width.
"""

import hashlib
import struct

import torch
from torch import Tensor

INITIAL_STEP = -1
"""The step of the noise a chunk starts from; denoise steps count from 0."""
_GIVEN = 1 << 20


def given_step(turn: int) -> int:
    """The step of the noise on a clean chunk that a round is given as its past, in a turn of the round."""
    return _GIVEN + turn


def draw_noise(
    *, seed: int, chunk: int, step: int, channels: int, latent_frames: int, height: int, width: int
) -> Tensor:
    """Draw standard normal noise for one chunk at one step.

    Args:
        seed: Seed of the request, 0 <= seed < 2**63.
        chunk: Index of the chunk.
        step: Denoise step the noise is added after, or `INITIAL_STEP`.
        channels: Latent channels.
        latent_frames: Latent frames of the chunk.
        height: Latent height.
        width: Latent width.

    Returns:
        Float32 on the CPU, shape 1, C, T, H, W.
    """
    frames_TCHW = torch.empty(latent_frames, channels, height, width)
    fill_noise(frames_TCHW, seed=seed, chunk=chunk, step=step)
    return frames_TCHW.transpose(0, 1).unsqueeze(0).contiguous()


def fill_noise(frames_TCHW: Tensor, *, seed: int, chunk: int, step: int) -> None:
    """Write the same noise, latent frame by latent frame, into memory of the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, chunk, step))
    for frame_CHW in frames_TCHW:
        frame_CHW.normal_(generator=generator)


def derive_seed(seed: int, chunk: int, step: int) -> int:
    """Hash three integers into a 63-bit seed: blake2b over them as little-endian 64-bit integers."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, chunk, step), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
