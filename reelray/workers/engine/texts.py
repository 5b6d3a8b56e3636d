"""What one request is to show, as the transformer reads it: prompts are encoded once, and forgotten when over."""

from collections.abc import Sequence
from typing import Any

import torch

from reelray.proto.request import RenderRequest
from reelray.workers.models.api import VideoModel


class Texts:
    """Contexts of prompts by their number in the request.

    A prompt that is over takes no memory; should it be needed again, to repeat a forward, it is encoded again. Ranks
    that evaluate a request together ask for the same prompts in the same order.

    Args:
        model: Encodes them.
    """

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self._prompts: Sequence[str] = ()
        self._negative: str | None = None
        self._contexts: dict[str, Any] = {}
        self.image: list[Any] | None = None
        """Context of the first frame, where the request has one."""

    def follow(self, request: RenderRequest, *, since: int | None) -> None:
        """Go by the prompts and the picture of this wording of the request from here on.

        Args:
            request: The request.
            since: Number of the first prompt that is encoded at once if it is new, in one pass with those behind it;
                None encodes each when it is asked for.
        """
        self._prompts = [request.prompt, *(change.prompt for change in request.changes)]
        if request.recipe.guidance.needs_unconditional:
            self._negative = request.negative_prompt
        if since is not None:
            self._encode(self._wanted(since))
        if request.image is not None and self.image is None:
            pixels = torch.frombuffer(bytearray(request.image), dtype=torch.uint8)
            image_HWC = pixels.view(request.height, request.width, 3)
            self.image = [self._model.encode_image(image_HWC, frames=request.frames)]

    @property
    def negative(self) -> Any:
        """The context of the negative prompt."""
        assert self._negative is not None, "whoever evaluates that branch has it"
        return self._of(self._negative)

    def fork(self) -> "Texts":
        """The same for a request that goes on from here."""
        other = Texts(self._model)
        other._contexts, other.image = {**self._contexts}, self.image
        return other

    def __getitem__(self, number: int) -> Any:
        """The context of a prompt."""
        return self._of(self._prompts[number])

    def forget_before(self, number: int) -> None:
        """Drop what only prompts before this one say."""
        wanted = self._wanted(number)
        self._contexts = {text: context for text, context in self._contexts.items() if text in wanted}

    def _wanted(self, since: int) -> list[str]:
        return [*self._prompts[since:], *([] if self._negative is None else [self._negative])]

    def _of(self, text: str) -> Any:
        self._encode([text])
        return self._contexts[text]

    def _encode(self, texts: Sequence[str]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self._contexts]
        if missing:
            self._contexts |= dict(zip(missing, self._model.encode_text(missing), strict=True))
