"""How remembered keys and values are kept until a window attends them."""

from enum import StrEnum


class Storage(StrEnum):
    """Formats of pages."""

    EXACT = "exact"  # as the model made them
    FP8 = "fp8"  # e4m3, with a scale for every token and head
    INT8 = "int8"  # with a scale for every token and head


SCALE_BYTES = 4
"""Of the scale that 8-bit pages keep for every token and head."""
