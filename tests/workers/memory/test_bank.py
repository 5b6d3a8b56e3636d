"""Memories that choose and stand in, whatever happens to their pages meanwhile."""

import pytest
import torch

from reelray.proto.bank_rule import BankRule
from reelray.proto.memory_rule import MemoryRule, Placement, Sink
from reelray.proto.storage import Storage
from tests.support.memory_cases import roll
from tests.support.parallel_cases import make_model

RULES = {
    "bank": MemoryRule(local=2, sink=1, bank=BankRule(size=2)),
    "copies": MemoryRule(local=4, bank=BankRule(size=2, every=2, repeats=True)),
    "bank in 8 bits": MemoryRule(local=2, sink=1, bank=BankRule(size=2), storage=Storage.INT8),
    "bouncing": MemoryRule(local=8, sink=4, sink_kind=Sink.BOUNCING, placement=Placement.RELATIVE),
}


def rest(memory):
    memory.park()
    memory.wake()
    return memory


def move_on(memory):
    fork = memory.fork()
    memory.close()
    return fork


@pytest.mark.parametrize("between", [rest, move_on], ids=["rests", "forks"])
@pytest.mark.parametrize("name", RULES)
def test_rests_and_forks_change_nothing(name, between):
    model = make_model("t2v", torch.float32, "cpu")
    assert torch.equal(roll(model, RULES[name], between=between), roll(model, RULES[name]))


def test_copies_that_crowd_a_bank_change_the_video():
    model = make_model("t2v", torch.float32, "cpu")
    rule = RULES["copies"]
    once = MemoryRule(local=4, bank=BankRule(size=2, every=2))
    assert (roll(model, rule) - roll(model, once)).abs().max() > 1e-4


def test_a_bank_of_nothing_is_refused():
    for wrong in ({"size": 0}, {"size": 1, "every": 0}):
        with pytest.raises(ValueError, match="both must be at least 1"):
            BankRule(**wrong)
