"""The text of a video on its way from one prompt to another."""

from typing import Any

from reelray.proto.request import RenderRequest
from reelray.workers.models.api import VideoModel


class MixedText:
    """Keeps the context of the mixture that was asked for last: a chunk is denoised in several steps."""

    def __init__(self) -> None:
        self._found: tuple[list[tuple[str, float]], Any] | None = None

    def find(self, request: RenderRequest, model: VideoModel, mix: tuple[float, ...]) -> Any:
        """The context of a mixture.

        Args:
            request: Has the prompts.
            model: Encodes them.
            mix: Weight of each; those of weight 0 are not needed.
        """
        prompts = [request.prompt, *(change.prompt for change in request.changes)]
        used = [(prompt, weight) for prompt, weight in zip(prompts, mix, strict=False) if weight]
        if self._found is None or self._found[0] != used:
            self._found = (used, model.mix_text([text for text, _ in used], [weight for _, weight in used]))
        return self._found[1]
