"""Imports xfuser on a machine without CUDA."""

import torch

from reelray.workers.parallel.xfuser_attention import Xfuser


def load_xfuser() -> Xfuser:
    """`Xfuser.load`, which on a CPU needs a lie: xfuser asks for the version of CUDA while it is imported."""
    if torch.cuda.is_available():
        return Xfuser.load()
    version = torch.version.cuda
    torch.version.cuda = version or "13.0"
    try:
        return Xfuser.load_unchecked()
    finally:
        torch.version.cuda = version
