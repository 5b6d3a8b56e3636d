"""The copies in plain torch.

Shape suffixes: S tokens, N heads, D head width.
"""

from torch import Tensor


def put_tokens(keys_SND: Tensor, values_SND: Tensor, to_keys_SND: Tensor, to_values_SND: Tensor) -> None:
    """Copy keys and values into their place.

    Args:
        keys_SND: Of some tokens.
        values_SND: Beside them; may be a strided view.
        to_keys_SND: Is overwritten.
        to_values_SND: Is overwritten.
    """
    to_keys_SND.copy_(keys_SND)
    to_values_SND.copy_(values_SND)
