"""A server of HTTP over a real store, and a worker that the test leads."""

import httpx2
import pytest

from tests.support.http_gateway import serve_http


@pytest.fixture
def served(shelf):
    with serve_http(shelf) as served:
        yield served


@pytest.fixture
def http(served):
    with httpx2.Client(base_url=served.url, timeout=20) as client:
        yield client
