"""What stands where a network was not loaded, because its rank has no use for it."""

from typing import Any, NoReturn, TypeVar, cast

from reelray.proto.errors import EngineError

T = TypeVar("T")


class Absent:
    """Says that it is not here, whatever it is asked.

    Args:
        name: Of the network.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, what: str) -> NoReturn:
        """Refuse.

        Raises:
            EngineError: Always.
        """
        raise EngineError(f"this rank was opened without {self._name}, which was asked for {what}")


def absent(kind: type[T]) -> T:
    """Something that stands for a network of this kind."""
    return cast("T", Absent(kind.__name__))


def is_here(network: Any) -> bool:
    """Whether a network was loaded."""
    return not isinstance(network, Absent)
