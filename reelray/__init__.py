"""reelray: serve video diffusion transformers on many GPUs.

`import reelray` is cheap: neither torch nor ray is imported until a name that needs them is used.

    import reelray

    video = reelray.render("a red circle moves left on a blue background", seed=7)
    video.frames  # uint8, (frames, height, width, 3)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reelray.cluster.client.async_client import AsyncClient
    from reelray.cluster.client.python_client import Client
    from reelray.cluster.python_api import Rendered, render, render_stream, resume, stream
    from reelray.cluster.stream_session import StreamSession

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "Rendered",
    "StreamSession",
    "__version__",
    "render",
    "render_stream",
    "resume",
    "stream",
]


def __getattr__(name: str) -> object:
    if name in {"AsyncClient", "Client"}:
        from reelray.cluster.serve_extra import needs_serve_extra  # noqa: PLC0415  keeps the import of the package cheap

        with needs_serve_extra():
            from reelray.cluster.client.async_client import AsyncClient  # noqa: PLC0415
            from reelray.cluster.client.python_client import Client  # noqa: PLC0415
        return Client if name == "Client" else AsyncClient
    if name in __all__:
        from reelray.cluster import python_api  # noqa: PLC0415  keeps the import of the package cheap

        return getattr(python_api, name)
    raise AttributeError(f"module 'reelray' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
