"""Frames that are kept because they fit the prompt."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BankRule:
    """What a bank takes in, keeps and shows. Each layer keeps frames of its own choice.

    A layer's score of a frame is the mean, over heads, text tokens and tokens of the frame, of a key of the text times
    a key of the frame over the square root of a head's width. Into a full bank the newest comes for the one that scores
    least. Source: MemFlow.

    Args:
        size: Latent frames.
        every: Of so many chunks the first one brings its first frame, which is taken in before the next chunk. A chunk
            that brings one does not see the one that was taken in last.
        repeats: Take the newest in again before every chunk, as the published code does: copies of it fill the bank.
        ties: Let all score the same where a change of the prompt has frames remembered anew, as in the published code,
            which has forgotten the text by then: the newest but one goes.
    """

    size: int
    every: int = 1
    repeats: bool = False
    ties: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.every < 1:
            raise ValueError(f"bank.size is {self.size} and bank.every is {self.every}; both must be at least 1")
