import pytest

from reelray.quality.sprites.caption import parse_caption
from reelray.quality.sprites.scene import Scene, Sprite


def test_the_default_prompt() -> None:
    scene = parse_caption("a red circle moves left on a blue background")
    assert scene == Scene(background="blue", sprites=(Sprite(color="red", shape="circle", motion="left"),))


def test_two_sprites_keep_the_caption_s_order() -> None:
    scene = parse_caption(
        "In front of a dark purple background, a yellow star bounces up and down while a green square rises."
    )
    first = Sprite(color="yellow", shape="star", motion="bounce")
    second = Sprite(color="green", shape="square", motion="up")
    assert scene == Scene(background="purple", sprites=(first, second))


def test_british_grey() -> None:
    assert parse_caption("a red heart spins on a grey background").background == "gray"


@pytest.mark.parametrize(
    ("caption", "complaint"),
    [
        ("a red circle moves left", "no known background"),
        ("a red hexagon moves left on a blue background", "names 0 sprites"),
        ("a red circle dreams on a blue background", "no known motion in 'dreams on a'"),
        ("a red star spins and a blue star spins and a pink star spins on a black background", "names 3 sprites"),
    ],
)
def test_what_cannot_be_read_is_named(caption: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_caption(caption)
