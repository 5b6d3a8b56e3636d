"""What `pip install reelray[serve]` brings, or a clear word that it is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from reelray.proto.errors import UnsupportedError

MODULES = (
    *("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google.protobuf", "google.rpc"),
    *("prometheus_client", "pydantic", "starlette", "uvicorn"),
)


@contextmanager
def needs_serve_extra() -> Iterator[None]:
    """Around imports of what needs gRPC.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(MODULES):
            raise
        raise UnsupportedError(
            f"Python package {error.name} is not installed, and servers and their clients speak gRPC; "
            "install it with: pip install 'reelray[serve]'"
        ) from None
