"""Requests and model facts for tests."""

from reelray.proto.chunking import Chunking
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import RenderRequest, RequestId


def make_facts(**changes) -> ModelFacts:
    values = {
        "family": "fake",
        "task": "t2v",
        "latent_channels": 2,
        "spatial_stride": 8,
        "temporal_stride": 4,
        "patch": (1, 2, 2),
        "text_tokens": 4,
        "layers": 1,
        "dim": 8,
        "parameters": 1,
        "positions": 1024,
    }
    return ModelFacts(**{**values, **changes})


def make_recipe(*, steps=3, chunk=None, first_chunk=None, solver=Solver.EULER, guidance=3.0, **changes) -> Recipe:
    return Recipe(
        name="fake",
        model="fake",
        schedule=Schedule(solver=solver, steps=steps),
        guidance=Guidance(scale=guidance),
        chunking=Chunking(latent_frames=chunk, first_latent_frames=first_chunk),
        **changes,
    )


def make_request(name="a", *, latent_frames=5, seed=7, recipe=None, **changes) -> RenderRequest:
    values = {
        "request_id": RequestId(name),
        "prompt": f"prompt {name}",
        "negative_prompt": "",
        "width": 32,
        "height": 16,
        "frames": 4 * (latent_frames - 1) + 1,
        "seed": seed,
        "recipe": recipe or make_recipe(),
    }
    return RenderRequest(**{**values, **changes})


def random_request(rng, name) -> RenderRequest:
    """A request of up to seven latent frames, whole or in chunks of one to three."""
    recipe = make_recipe(steps=rng.randint(1, 4), chunk=rng.choice([None, 1, 2, 3]))
    return make_request(name, latent_frames=rng.randint(1, 7), recipe=recipe)
