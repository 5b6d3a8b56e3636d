"""Errors say when trying again can help."""

import pickle

import pytest

from reelray.proto.errors import RETRY_MS, ArtifactError, InputError, QuotaError, StoreStartError


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (QuotaError("used up", ids={"retry_after_ms": "2500"}), 2500),
        (QuotaError("used up", ids={"retry_after_ms": "soon"}), RETRY_MS),
        (ArtifactError("full"), RETRY_MS),
        (InputError("wrong", ids={"retry_after_ms": "2500"}), None),
        (StoreStartError("no such program"), None),
    ],
)
def test_an_error_says_when_to_try_again_where_that_can_help(error, wanted):
    assert error.retry_after_ms == wanted
    assert pickle.loads(pickle.dumps(error)).retry_after_ms == wanted
