import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.errors import SizeError
from reelray.scheduler.chunks import MOST_CHUNKS, cut_chunks, cut_pieces


@pytest.mark.parametrize(
    ("size", "first", "total", "lengths"),
    [
        (None, None, 21, [21]),
        (None, None, 1, [1]),
        (3, None, 9, [3, 3, 3]),
        (3, None, 10, [3, 3, 3, 1]),
        (4, 1, 9, [1, 4, 4]),
        (4, 1, 1, [1]),
        (5, None, 3, [3]),
        (2, 7, 5, [5]),
        (None, 2, 6, [2, 4]),
    ],
)
def test_chunks_have_the_lengths_of_the_recipe(size, first, total, lengths):
    chunks = cut_chunks(Chunking(latent_frames=size, first_latent_frames=first), total)
    assert [c.length for c in chunks] == lengths
    assert [c.first for c in chunks] == [sum(lengths[:i]) for i in range(len(lengths))]


def test_pieces_never_cross_a_chunk():
    chunks = cut_chunks(Chunking(latent_frames=5), 12)
    pieces = cut_pieces(chunks, 2)
    assert [(p.first, p.length) for p in pieces] == [(0, 2), (2, 2), (4, 1), (5, 2), (7, 2), (9, 1), (10, 2)]


def test_a_video_has_a_bounded_number_of_chunks():
    chunking = Chunking(latent_frames=3, first_latent_frames=4)
    assert len(cut_chunks(chunking, 4 + 3 * (MOST_CHUNKS - 1))) == MOST_CHUNKS
    with pytest.raises(SizeError, match=r"40000000 latent frames are too many .* at most 20000 chunks"):
        cut_chunks(chunking, 40_000_000)
    assert len(cut_chunks(Chunking(), 40_000_000)) == 1
