"""Where a video is cut into groups of frames that are encoded each by itself.

The cuts depend on the request alone: whoever makes it, interrupted or not, cuts it at the same frames, so its bytes are
the same. Where there are chunks a group ends with one, so that at a chunk's end seldom any frame waits for its group.
"""

from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import RenderRequest
from reelray.scheduler.chunks import cut_chunks

LEAST_FRAMES = 12
MOST_FRAMES = 48
MOST_BYTES = 256 << 20
"""Of the frames of a group, which wait in memory for each other."""


def cut_groups(request: RenderRequest, facts: ModelFacts) -> tuple[int, ...]:
    """Pixel frames at which groups end; the last one is the video's end."""
    most = max(1, min(MOST_FRAMES, MOST_BYTES // (request.width * request.height * 3)))
    least = min(LEAST_FRAMES, most)
    begin, ends = 0, list[int]()
    for chunk_end in chunk_ends(request, facts):
        while chunk_end - begin > most:
            begin += most
            ends.append(begin)
        if chunk_end - begin >= least or chunk_end == request.frames:
            begin = chunk_end
            ends.append(begin)
    return tuple(ends)


def chunk_ends(request: RenderRequest, facts: ModelFacts) -> tuple[int, ...]:
    """Pixel frames at which chunks end; the last one is the video's end."""
    recipe = request.recipe
    chunks = cut_chunks(recipe.chunking, facts.latent_frames(request.frames, endless=recipe.is_endless))
    return tuple(facts.frames(chunk.end) for chunk in chunks)
