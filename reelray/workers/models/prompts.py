"""Prompt text as the models read it."""

import html
import importlib
import importlib.util
import re

from reelray.proto.errors import PromptError


def clean_prompt(text: str) -> str:
    """Undo HTML escapes and collapse white space, as the published pipelines do.

    Broken Unicode is mended when the optional package ftfy is installed.
    """
    if importlib.util.find_spec("ftfy") is not None:
        text = importlib.import_module("ftfy").fix_text(text)
    text = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", text).strip()


def check_prompt(text: str) -> str:
    """Clean a prompt that must say something.

    Raises:
        PromptError: Nothing is left after cleaning.
    """
    cleaned = clean_prompt(text)
    if not cleaned:
        raise PromptError("the prompt is empty; say in a few words what the video shows")
    return cleaned
