"""Makes a job one of a stream that may grow while it runs."""

from dataclasses import replace

from reelray.cluster.render import RenderJob


def as_live(job: RenderJob, *, rounds: bool) -> RenderJob:
    """The same job, open to what is said while it runs.

    Args:
        job: What to make.
        rounds: Whether to make its last chunk a whole one, which more can follow; where the model can place that.
    """
    request, facts = job.request, job.model.facts
    recipe = request.recipe
    size = recipe.chunking.latent_frames
    latent_frames = facts.latent_frames(request.frames, endless=recipe.is_endless)
    if rounds and size is not None:
        first = recipe.chunking.first_latent_frames or size
        whole = first + -(-max(0, latent_frames - first) // size) * size
        if recipe.is_endless or facts.positions is None or whole <= facts.positions:
            latent_frames = whole
    return replace(job, request=replace(request, frames=facts.frames(latent_frames), live=True))
