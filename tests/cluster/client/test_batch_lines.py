"""What a line of a batch says of its render, and what the command says for all."""

from datetime import UTC, datetime

import pytest

from reelray.cluster.client.batch_file import Batch, read_line
from reelray.cluster.client.kept_reading import Wanted
from reelray.proto.errors import InputError

DUE = datetime(2026, 12, 24, 18, tzinfo=UTC)
BATCH = Batch(file="-", options={}, wanted=Wanted(webhook="https://a.example/", deadline=DUE), wait=False)


def test_webhooks_and_deadlines_hold_for_every_line():
    _, plain = read_line('"a cat"', 1, BATCH)
    assert (plain.webhook, plain.deadline) == ("https://a.example/", DUE)
    _, own = read_line('{"prompt": "a cat", "webhook": "https://b.example/"}', 2, BATCH)
    assert (own.webhook, own.deadline) == ("https://b.example/", DUE)
    with pytest.raises(InputError, match="line 3: webhook is 7; it must be text"):
        read_line('{"prompt": "a cat", "webhook": 7}', 3, BATCH)
