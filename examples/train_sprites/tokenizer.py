"""A word tokenizer for the caption grammar, saved in the layout that transformers reads."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS, MOTIONS, PLACES, SHAPES

SPECIAL = ("<pad>", "</s>", "<unk>")


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows exactly `words`; every prompt ends in `</s>`, as T5's does.

    Args:
        words: Vocabulary; letter case is folded and punctuation split off before look-up.

    Returns:
        A tokenizer with pad id 0, end id 1 and unknown id 2.
    """
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *sorted(set(words))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def list_words() -> list[str]:
    """Every word that captions can hold, sorted."""
    phrases = [*COLORS, *SHAPES, *PLACES, "a an and while ,"]
    phrases += [form for forms in MOTIONS.values() for pair in forms for form in pair]
    phrases += [phrase for background in BACKGROUNDS.values() for phrase in background.phrases]
    return sorted({word for phrase in phrases for word in phrase.replace("{a}", "").split()})


def save_tokenizer(words: Iterable[str], folder: Path) -> None:
    """Write the tokenizer's files to `folder`."""
    build_tokenizer(words).save_pretrained(folder)
