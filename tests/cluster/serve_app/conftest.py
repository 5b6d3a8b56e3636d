"""One Ray with Serve for the folder's tests, without Serve's own proxies; where it is missing, each file says so."""

import contextlib
import warnings

import pytest

from reelray.cluster.embedded_ray import EmbeddedRay
from tests.support.archive import start_store

with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
    warnings.simplefilter("ignore")  # pydantic dislikes how Ray describes its fields
    from ray import serve


@pytest.fixture(scope="module")
def serving(tiny_t2v, tmp_path_factory):
    """Serve on an embedded Ray whose processes find the model `tiny-t2v` and a store; it ends with Ray."""
    with pytest.MonkeyPatch.context() as patch, start_store() as store:
        patch.setenv("REELRAY_REDIS_URL", store.url)
        patch.setenv("REELRAY_MODEL_PATH", str(tiny_t2v.parent))
        patch.setenv("REELRAY_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        with EmbeddedRay(cpus=3):
            serve.start(proxy_location="Disabled")
            yield serve
