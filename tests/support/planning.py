"""Jobs, machines and the table for tests of the plan."""

from functools import cache

from reelray.cluster.calibration import load_calibration
from reelray.proto.chunking import Chunking
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import Commit, MemoryRule
from reelray.proto.residency import Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Link, Machine
from reelray.scheduler.plan.step_time import Setting
from reelray.workers.models.registry import describe_preset
from reelray.workers.recipes.presets import load_presets

GIB = 2**30
SIZES = {"480p": (832, 480), "720p": (1280, 720)}


@cache
def table() -> Calibration:
    return load_calibration()


@cache
def _model(name: str):
    return describe_preset(next(p for p in load_presets() if p.recipe.name == f"wan2.1-{name}"))


def make_job(model="14b", size="720p", *, frames=81, steps=50, guided=True, **changes) -> PlanJob:
    facts, sizes = _model(model if "-" in model else f"t2v-{model}")
    width, height = SIZES[size]
    return PlanJob(
        facts=facts,
        sizes=sizes,
        width=width,
        height=height,
        frames=frames,
        steps=steps,
        guided_steps=steps if guided else 0,
        **changes,
    )


def make_stream(model="1.3b", *, steps=2, frames=81, size="480p", memory=12) -> PlanJob:
    """A causal few-step model: chunks of three latent frames."""
    rule = None if memory is None else MemoryRule(local=memory, commit=Commit.LAST_STEP)
    chunking = Chunking(latent_frames=3)
    return make_job(model, size, frames=frames, steps=steps, guided=False, chunking=chunking, memory=rule)


def make_machine(gpus=1, gib=139, link="nvlink") -> Machine:
    return Machine(gpus=gpus, memory_bytes=gib * GIB, link=Link(link))


def make_setting(job, layout="", residency=None, link="nvlink", table_=None) -> Setting:
    return Setting(
        job=job,
        layout=Layout.parse(layout),
        residency=residency or Residency(),
        link=Link(link),
        table=table_ or table(),
    )
