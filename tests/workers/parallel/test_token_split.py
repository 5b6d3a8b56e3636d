import pytest
import torch

from reelray.proto.errors import SizeError, UnsupportedError
from reelray.workers.parallel.exchange import plan_heads
from reelray.workers.parallel.sequence_sharding import SequenceShard
from reelray.workers.parallel.token_split import TokenSplit, split_evenly


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 12, 35])
def test_ranges_are_those_of_torch(count, parts) -> None:
    expected = [part.tolist() for part in torch.arange(count).tensor_split(parts)]
    assert [list(part) for part in split_evenly(count, parts)] == expected


@pytest.mark.parametrize(("ring", "ulysses"), [(1, 1), (1, 4), (4, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("places", [6, 7, 35])
def test_each_rank_takes_the_same_places_of_every_frame(ring, ulysses, places) -> None:
    frames = 3
    tokens = torch.arange(frames * places).view(1, -1, 1).expand(2, -1, 4)
    splits = [
        TokenSplit(frames=frames, places=places, ring=ring, ulysses=ulysses, index=index)
        for index in range(ring * ulysses)
    ]
    shares = [split.take(tokens) for split in splits]
    for split, share in zip(splits, shares, strict=True):
        by_frame = share[0, :, 0].view(frames, -1)
        assert torch.equal(by_frame, by_frame[:1] + places * torch.arange(frames)[:, None])
        block = split.index // ulysses
        assert split.block_places == tuple(len(part) for part in split.shares[block * ulysses : (block + 1) * ulysses])
        assert split.block_tokens[block] == frames * sum(split.block_places)
        assert sum(split.block_tokens) == frames * places
        assert torch.equal(split.join(shares), tokens)


def test_too_few_places_and_foreign_tokens_are_refused() -> None:
    with pytest.raises(SizeError, match="a latent frame of 3 tokens cannot be shared by 4 ranks"):
        TokenSplit(frames=8, places=3, ring=2, ulysses=2)
    with pytest.raises(ValueError, match="34 tokens are not 3 frames of 11 places"):
        TokenSplit(frames=3, places=11, ulysses=2).take(torch.zeros(1, 34, 2))


@pytest.mark.parametrize(("heads", "ranks"), [(4, 2), (3, 2), (12, 4), (40, 3), (5, 5)])
@pytest.mark.parametrize("groups", [1, 2, 3, 50])
def test_every_head_is_computed_once_and_no_rank_is_idle(heads, ranks, groups) -> None:
    planned = plan_heads(heads, ranks, groups)
    assert 1 <= len(planned) <= groups
    assert all(len(part) > 0 for group in planned for part in group)
    assert [head for rank in range(ranks) for group in planned for head in group[rank]] == list(range(heads))


def test_fewer_heads_than_ranks_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="3 heads cannot be shared by ulysses=4"):
        plan_heads(3, 4, 1)


@pytest.mark.parametrize("index", [0, 1])
def test_every_rank_knows_how_many_tokens_the_widest_has(index) -> None:
    split = TokenSplit(frames=3, places=7, ulysses=2, index=index)
    shard = SequenceShard(split, None, torch.device("cpu"), None)
    assert shard.widest(3 * len(split.shares[index])) == 12
