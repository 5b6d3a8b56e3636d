"""The tiny video decoder of the TAEHV family: approximate pictures of the same latents for a small part of the cost."""

from reelray.workers.models.wan.taehv.config import TaehvConfig
from reelray.workers.models.wan.taehv.files import find_taehv_file, load_taehv
from reelray.workers.models.wan.taehv.model import Taehv, TaehvState

__all__ = ["Taehv", "TaehvConfig", "TaehvState", "find_taehv_file", "load_taehv"]
