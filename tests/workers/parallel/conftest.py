"""What one rank alone predicts, for the tests that hold several ranks to it."""

import pytest

from tests.support.parallel_cases import make_model, predict


@pytest.fixture(scope="module")
def one_rank():
    found = {}

    def predict_alone(device, name, dtype, options):
        options = {key: value for key, value in options.items() if key != "head_groups"}
        key = (device, name, dtype, str(options))
        if key not in found:
            found[key] = predict(make_model(name, dtype, device), **options)
        return found[key]

    return predict_alone
