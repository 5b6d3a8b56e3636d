"""`reelray serve` whose models take their time: `python -m tests.support.fault_server ...`.

Renders are committed by the unit, leases are short, and whoever is lost is missed soon. Nothing heavy is imported
before the server is a process of its own, as in the real command.
"""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from reelray.cluster.cli import main
from reelray.cluster.services import default_services, plan_loading
from tests.support.slowly import Slowly


def plan_slowly(*model_and_place):
    loader, limits = plan_loading(*model_and_place)
    return Slowly(loader, Path.cwd(), float(os.environ.get("TEXT_S", "0"))), limits


def open_engine(kind, model, device, placement, residency):
    from reelray.cluster.local_engine import LocalEngine
    from reelray.workers.engine.gang import GangSpec

    slowly, limits = plan_slowly(model, device, placement, residency)
    if kind == "ray":
        from reelray.cluster.embedded_engine import EmbeddedEngine

        return EmbeddedEngine(slowly, limits=limits)
    if placement.ranks == 1:
        return LocalEngine.open(slowly, limits=limits)
    spec = GangSpec(load=slowly, layout=placement.layout, decode_ranks=placement.decode_ranks, threads=1, silence_s=1.5)
    return LocalEngine.open_gang(spec, limits=replace(limits, commit_s=0.2))


def load_settings():
    """The first thing that a server does: change its habits."""
    import torch

    from reelray.cluster import remote_engine
    from reelray.cluster.engine_groups import shared_ray
    from reelray.cluster.gateway import render_house, served_models
    from reelray.cluster.gateway.tenant_quotas import TenantQuota, TenantQuotas
    from reelray.cluster.renders.attempt import Surroundings
    from reelray.cluster.renders.worker import RenderWorker, WorkerHabits
    from tests.support.render_jobs import BY_UNIT

    torch.set_num_threads(1)
    quota = TenantQuota(frames_per_day=10**9)
    TenantQuotas.of = lambda *_: quota
    habits = WorkerHabits(lease_s=2.0, retry_after_s=0.3)
    render_house.RenderWorker = lambda models, around: RenderWorker(models, around, habits)
    render_house.Surroundings = partial(Surroundings, rule=BY_UNIT, tell_s=0.0)
    render_house.STORE_LOOK_S = 0.05
    shared_ray.plan_loading = plan_slowly
    remote_engine._SILENCE_S = served_models.ANSWER_S = 1.0
    return default_services().load_settings()


if __name__ == "__main__":
    services = replace(default_services(), load_settings=load_settings, open_engine=open_engine)
    sys.exit(main(["serve", *sys.argv[1:]], services))
