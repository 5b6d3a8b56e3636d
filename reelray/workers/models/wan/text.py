"""Prompts to text embeddings: tokenizer, UMT5, and a cache by content.

Shape suffixes: B batch, S tokens, C channels.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from reelray.proto.errors import CheckpointError, PromptError
from reelray.workers.models.byte_cache import ByteCache
from reelray.workers.models.prompts import clean_prompt
from reelray.workers.models.wan.umt5 import Umt5Config, Umt5Encoder, rename_tensor
from reelray.workers.models.weight_loading import Stack, load_module

Tokenize = Callable[[str], list[int]]
CACHE_BYTES = 256 * 2**20
STACK = Stack(name="blocks", beside=("embedding",))
"""What passes through the device, or stays off it, where the encoder is released; the last norm is a few KB."""


class TextEncoder:
    """Encodes prompts one by one, so that an embedding never depends on what shares its batch.

    Args:
        tokenize: Text to token ids, end token included.
        encoder: UMT5 in evaluation mode.
        text_tokens: Slots of an embedding; unused ones are zero.
        digest: Names tokenizer and weights in cache keys.
        cache_bytes: Bytes of embeddings to keep.
    """

    def __init__(
        self, tokenize: Tokenize, encoder: Umt5Encoder, *, text_tokens: int, digest: str, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.text_tokens = text_tokens
        self._tokenize = tokenize
        self._encoder = encoder
        self._digest = digest
        self._cache = ByteCache(cache_bytes)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts.

        Args:
            prompts: Raw texts; an empty one is the unconditional text.

        Returns:
            Shape B, `text_tokens`, C on the encoder's device, in its dtype, zero after each prompt's last token.

        Raises:
            PromptError: A prompt has more tokens than fit.
        """
        rows = self._encode_rows([clean_prompt(prompt) for prompt in prompts])
        padded_BSC = rows[0].new_zeros(len(rows), self.text_tokens, rows[0].shape[-1])
        for padded_SC, row_SC in zip(padded_BSC, rows, strict=True):
            padded_SC[: len(row_SC)] = row_SC
        return padded_BSC

    def _encode_rows(self, texts: Sequence[str]) -> list[Tensor]:
        keys = [hashlib.sha256(f"{self._digest}\0{text}".encode()).hexdigest() for text in texts]
        found = {key: cached for key in keys if (cached := self._cache.get(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        ids = [self._tokenize_one(text) for text in missing.values()]
        if missing:
            try:
                encoded = self._encoder.encode([torch.tensor([row]) for row in ids])
            finally:
                self._encoder.source.release()
            for key, row_1SC in zip(missing, encoded, strict=True):
                found[key] = row_1SC[0]
                self._cache.put(key, row_1SC[0])
        return [found[key] for key in keys]

    def _tokenize_one(self, text: str) -> list[int]:
        ids = self._tokenize(text)
        if len(ids) > self.text_tokens:
            raise PromptError(
                f"a prompt has {len(ids)} tokens and the model reads at most {self.text_tokens}; it starts with "
                f"{text[:40]!r}"
            )
        return ids


def load_text_encoder(
    files: Sequence[Path],
    tokenizer_folder: Path,
    config: Umt5Config,
    *,
    device: torch.device,
    dtype: torch.dtype,
    text_tokens: int,
    digest: str,
    released: bool = False,
) -> TextEncoder:
    """Load UMT5 and its tokenizer.

    Args:
        files: Weights in transformers' names (safetensors) or of the original release (`.pth`).
        tokenizer_folder: Holds `tokenizer.json`, or whatever else AutoTokenizer reads.
        config: Size of the encoder.
        device: Where it computes.
        dtype: Dtype of the weights.
        text_tokens: Slots of an embedding.
        digest: Names these files in cache keys.
        released: Keep the weights in host memory between prompts.

    Raises:
        CheckpointError: The tokenizer is missing or does not fit the encoder.
        WeightsError: The weights do not fit.
    """
    tokenize = load_tokenizer(tokenizer_folder, vocab_size=config.vocab_size)
    stack = STACK if released else None
    encoder = load_module(lambda: Umt5Encoder(config), files, rename_tensor, device=device, dtype=dtype, stack=stack)
    return TextEncoder(tokenize, encoder, text_tokens=text_tokens, digest=digest)


def count_tokens(folder: Path, prompt: str) -> int:
    """Count the tokens of a prompt, the end token included.

    Args:
        folder: Of the tokenizer.
        prompt: Raw text.

    Raises:
        CheckpointError: Nothing in the folder is a tokenizer.
    """
    return len(load_tokenizer(folder, vocab_size=sys.maxsize)(clean_prompt(prompt)))


def load_tokenizer(folder: Path, *, vocab_size: int) -> Tokenize:
    """Load a tokenizer.

    `tokenizer.json` is read by the tokenizers library itself: a second less to import than transformers. Without that
    file AutoTokenizer has to know the folder.

    Raises:
        CheckpointError: Nothing in the folder is a tokenizer, or it knows more tokens than `vocab_size`.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _load_auto_tokenizer(folder)
    from tokenizers import Tokenizer  # noqa: PLC0415 - not needed to look at checkpoints

    try:
        json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise CheckpointError(f"{path}: not a readable tokenizer file: {error}") from error
    known = tokenizer.get_vocab_size()
    if known > vocab_size:
        raise CheckpointError(f"{path}: knows {known} tokens; the text encoder embeds {vocab_size}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: list(tokenizer.encode(text).ids)


def _load_auto_tokenizer(folder: Path) -> Tokenize:
    if not folder.is_dir() or not any(folder.iterdir()):
        raise CheckpointError(f"{folder}: no tokenizer here; tokenizer.json or spiece.model is needed")
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import, rarely needed

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{folder}: not a readable tokenizer: {error}") from error
    return lambda text: list(tokenizer(text, add_special_tokens=True).input_ids)
