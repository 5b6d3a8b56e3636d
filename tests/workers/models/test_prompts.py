"""Cleaning of prompts."""

import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from reelray.proto.errors import PromptError
from reelray.workers.models.prompts import check_prompt, clean_prompt


@pytest.mark.parametrize(
    "text", ["a cat", "  a\n\tcat   sits ", "a &amp;lt;b&amp;gt; cat", "猫\u3000が\u00a0いる", "", "\n", "&nbsp;"]
)
def test_prompts_are_cleaned_as_diffusers_does(text: str) -> None:
    assert clean_prompt(text) == prompt_clean(text)


def test_cleaning_does_what_it_says() -> None:
    assert clean_prompt("  a &amp;lt; b\n c ") == "a < b c"


@pytest.mark.parametrize("text", ["", "  \n", "&nbsp;"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        check_prompt(text)
    assert check_prompt(" a ") == "a"
