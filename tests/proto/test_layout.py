import pytest

from reelray.proto.errors import InputError
from reelray.proto.layout import Layout


def test_degrees_multiply_to_ranks():
    layout = Layout(replica=2, cfg=2, ring=3, ulysses=4)
    assert (layout.sequence, layout.lane, layout.ranks) == (12, 24, 48)


@pytest.mark.parametrize("text", ["", "cfg=2,ulysses=2", "ulysses=2, cfg=2", "replica=2,pipe=4"])
def test_text_comes_back(text):
    layout = Layout.parse(text)
    assert layout.ranks == {"": 1, "replica=2,pipe=4": 8}.get(text, 4)
    if text:
        assert Layout.parse(str(layout)) == layout


@pytest.mark.parametrize(
    ("text", "word"),
    [("tensor=2", "unknown"), ("cfg=2,cfg=2", "twice"), ("ring", "AXIS=DEGREE"), ("ring=-1", "AXIS"), ("cfg=3", "two"),
     ("ulysses=0", "at least 1")],
)  # fmt: skip
def test_what_is_no_layout_is_refused(text, word):
    with pytest.raises(InputError, match=word):
        Layout.parse(text)
