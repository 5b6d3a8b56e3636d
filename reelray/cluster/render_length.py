"""Which checkpoint makes a video of the wished length: a model of clips may name another one for longer videos."""

from collections.abc import Callable

from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.render import RenderOptions, choose_fps, count_frames
from reelray.proto.errors import UnknownModelError, UnsupportedError


def choose_for_length(options: RenderOptions, entry: ModelEntry, find: Callable[[str], ModelEntry]) -> ModelEntry:
    """The model that was asked for, or the one that its recipe names for streams and videos longer than a clip.

    Args:
        options: What to render.
        entry: The model that was asked for.
        find: Looks a model up by name or path.

    Raises:
        InputError: The wished length is wrong.
        UnsupportedError: The recipe names a model that is not here.
        CheckpointError: That model is not usable.
    """
    recipe = entry.recipe
    if not recipe.longer:
        return entry
    longest, fps = recipe.defaults.frames, choose_fps(options.fps, recipe)
    if not options.stream and not options.at and count_frames(options, recipe, entry.facts, fps) <= longest:
        return entry
    beside = entry.path.absolute().parent / recipe.longer
    try:
        return find(str(beside) if beside.is_dir() else recipe.longer)
    except UnknownModelError:
        raise UnsupportedError(
            f"model '{entry.name}' makes clips of at most {longest} frames ({float(longest / fps):.3g} s); longer ones "
            f"and streams are made by model '{recipe.longer}', which is not here: put its folder beside {entry.path}"
        ) from None
