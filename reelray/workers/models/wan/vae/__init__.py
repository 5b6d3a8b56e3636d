"""The Wan2.1 video VAE: whole-clip forms for training, a streaming form for serving."""

from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.model import WanVae
from reelray.workers.models.wan.vae.state import DecodeState, EncodeState, Tiling

__all__ = ["DecodeState", "EncodeState", "Tiling", "WanVae", "WanVaeConfig"]
