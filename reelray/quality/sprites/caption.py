"""Reading captions of the drawn world back into scenes."""

import re

from reelray.quality.sprites.scene import Scene, Sprite
from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS, MOTIONS, SHAPES

SYNONYMS = {"grey": "gray"}


def parse_caption(text: str) -> Scene:
    """Read what a caption of the grammar asks for; letter case and punctuation do not matter.

    Args:
        text: Such as "a red circle moves left on a blue background".

    Returns:
        The scene, sprites in the order of the caption.

    Raises:
        ValueError: The background, a sprite or its motion is missing or unknown; the message lists what is known.
    """
    words = [SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+", text.lower())]
    plain = " ".join(words)
    background, rest = _take_background(plain)
    heads = list(re.finditer(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b", rest))
    if len(heads) not in {1, 2}:
        raise ValueError(
            f"caption {text!r} names {len(heads)} sprites; it must name 1 or 2 "
            f"of colours {', '.join(COLORS)} and shapes {', '.join(SHAPES)}"
        )
    ends = [head.start() for head in heads[1:]] + [len(rest)]
    sprites = tuple(
        Sprite(color=head[1], shape=head[2], motion=_find_motion(rest[head.end() : end]))
        for head, end in zip(heads, ends, strict=True)
    )
    return Scene(background=background, sprites=sprites)


def _take_background(plain: str) -> tuple[str, str]:
    """The background's name, and the caption without it."""
    names = {phrase: name for name, backdrop in BACKGROUNDS.items() for phrase in backdrop.phrases}
    longest_first = sorted(names, key=len, reverse=True)
    found = re.search(rf"\b({'|'.join(longest_first)}) background\b", plain)
    if found is None:
        raise ValueError(f"caption {plain!r} names no known background; it must be one of {', '.join(names)}")
    return names[found[1]], plain[: found.start()] + plain[found.end() :]


def _find_motion(clause: str) -> str:
    phrases = {form: name for name, forms in MOTIONS.items() for pair in forms for form in pair}
    for phrase in sorted(phrases, key=len, reverse=True):
        if re.search(rf"\b{phrase}\b", clause):
            return phrases[phrase]
    raise ValueError(f"no known motion in {clause.strip()!r}; it must be one of {', '.join(phrases)}")
