"""Full pictures, or quick previews of them."""

from dataclasses import replace
from pathlib import Path

from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.decoder import Decoder
from reelray.proto.errors import InputError, SnapshotError, UnsupportedError, WeightsError
from reelray.proto.recipe import Recipe
from reelray.workers.models.registry import check_preview

DECODERS = {"full": Decoder.WAN_EXACT_STREAM, "preview": Decoder.TAEHV_STREAM}
"""By the words of users."""


def with_preview(model: ModelEntry, file: str | Path | None) -> ModelEntry:
    """The model with the preview decoder that was named.

    Raises:
        InputError: There is no such file, or it can be none.
    """
    if file is None:
        return model
    path = Path(file).expanduser().absolute()
    try:
        check_preview(model.facts.family, path)
    except WeightsError as error:
        raise InputError(error.message) from None
    return replace(model, preview=path, facts=replace(model.facts, decoders=tuple(Decoder)))


def choose_decoder(word: str | None, model: ModelEntry) -> Recipe:
    """The model's recipe with the decoder that was asked for; who names a file asks for previews.

    Raises:
        InputError: The word is not known, or asks for full pictures and a file is named.
        UnsupportedError: The model has none of that kind; the message says what is missing.
    """
    if word is not None and word not in DECODERS:
        raise InputError(f"decoder is {word!r}; it must be one of {', '.join(DECODERS)}")
    if word == "full" and model.preview is not None:
        raise InputError("decoder is full, and a preview decoder was named; leave one of them out")
    if word is None and model.preview is not None:
        word = "preview"
    recipe = model.recipe if word is None else replace(model.recipe, decoder=DECODERS[word])
    _check_there(recipe.decoder, model)
    return recipe


def check_resumed(recipe: Recipe, model: ModelEntry) -> None:
    """Refuse to go on from a snapshot by another decoder.

    Raises:
        SnapshotError: A preview decoder is named, and the stream was decoded in full.
        UnsupportedError: The stream was a preview, and the model has no decoder for that.
    """
    if model.preview is not None and not recipe.decoder.is_preview:
        raise SnapshotError("a preview decoder was named, and the snapshot is of a stream that was decoded in full")
    _check_there(recipe.decoder, model)


def _check_there(decoder: Decoder, model: ModelEntry) -> None:
    if decoder not in model.facts.decoders:
        raise UnsupportedError(
            f"model '{model.name}' has no preview decoder: put taew2_1.pth, or the same as .safetensors, into "
            f"{model.path / 'taehv'}, or name its file (--preview-decoder FILE)"
        )
