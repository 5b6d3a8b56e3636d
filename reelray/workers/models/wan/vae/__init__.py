"""The Wan2.1 video VAE: whole-clip forms for training, a streaming form for serving."""

from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.model import WanVae

__all__ = ["WanVae", "WanVaeConfig"]
