"""reelray: serve video diffusion transformers on many GPUs.

`import reelray` is cheap: neither torch nor ray is imported until a name that needs them is used.
"""

__version__ = "0.1.0"
