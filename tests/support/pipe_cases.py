"""What the ranks of a pipeline test do. Each rank also computes alone what it is compared with, from a whole model."""

from collections import deque
from dataclasses import replace

import torch

from reelray.proto.events import Stage
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.recipe import Guidance, Solver
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.frame_box import keep_frames
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.stages import WholeModel
from reelray.workers.parallel.cfg import ParallelBranches
from reelray.workers.parallel.layer_pipeline import LayerPipeline, PipelinedBranches
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.patch_pipeline import PatchBranches
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.samplers.guidance import SequentialBranches
from tests.support.parallel_cases import SIZE, make_inputs, make_model
from tests.support.render_on import render_on
from tests.support.requests import make_recipe, make_request

F32, BF16 = torch.float32, torch.bfloat16
LAYOUTS = {2: ["pipe=2"], 4: ["pipe=4", "cfg=2,pipe=2", "replica=2,pipe=2", "pipe=2,ulysses=2"]}
LAYERS = {2: 3, 4: 5}
MODELS = [("t2v", F32, 1), ("t2v", BF16, 1), ("i2v", F32, 2)]


class Guided:
    """A whole model, what this rank keeps of it, and their inputs."""

    def __init__(self, rank, name, dtype, layout, *, batch=1):
        sizes = {"num_layers": LAYERS[rank.ranks]}
        whole = make_model(name, dtype, rank.device, **sizes)
        self.lane, self.kept = layout, make_model(name, dtype, rank.device, **sizes)
        self.pipeline = LayerPipeline(layout.pipe, whole.config.num_layers)
        self.kept.keep_layers(self.pipeline.layers)
        self.whole, self.whole_inputs = whole, make_inputs(whole, batch=batch)
        self.kept_inputs = make_inputs(self.kept, batch=batch)
        self.latents = self.whole_inputs[0]
        shape = (batch, whole.config.out_channels, *SIZE)
        self.shape = torch.Size(shape)

    def alone(self, latents, weight=3.0):
        def evaluate(branch):
            return WholeModel().evaluate(self.open(latents, branch, model="whole")).float()

        return SequentialBranches().predict(evaluate, weight, shape=self.shape)

    def together(self, branches, latents, weight=3.0, *, sharding=None):
        shard = sharding.shard(SIZE[0], SIZE[1] * SIZE[2] // 4) if sharding else WholeWindow()

        def evaluate(branch):
            return self.pipeline.evaluate(self.open(latents, branch, shard=shard)).float()

        return branches.predict(evaluate, weight, shape=self.shape)

    def open(self, latents, branch=0, *, model="kept", shard=None):
        model, inputs = (self.kept, self.kept_inputs) if model == "kept" else (self.whole, self.whole_inputs)
        _, timestep, texts, image = inputs
        return model.open_forward(latents, timestep, texts[branch], image=image, shard=shard)

    def patched(self, patches, exact_steps=1, around=None):
        return PatchBranches(self.pipeline, Patching(patches=patches, exact_steps=exact_steps), around=around)

    def noise(self, seed):
        return torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(seed)).to(self.latents.device)


def run_world(rank, folder, request):
    found = run_cases(rank) | ({"videos": render_all(rank, folder, request)} if rank.ranks == 2 else {})
    return found | {"line": render_in_line(rank, folder)}


def line_requests():
    """Whole clips, a stream, with guidance and without, one with patches, and one that cannot be sampled."""
    broken = replace(make_recipe(steps=3), guidance=Guidance(per_step=(2.0, 3.0)))
    recipes = {
        "a": make_recipe(steps=4, chunk=2),
        "b": make_recipe(steps=3, guidance=1.0),
        "broken": broken,
        "c": make_recipe(steps=5, solver=Solver.UNIPC),
        "patched": make_recipe(steps=4),
    }
    wanted = {"patched": Patching(patches=2, exact_steps=2)}
    return [
        make_request(name, seed=seed, latent_frames=4, recipe=recipe, negative_prompt="blue", patching=wanted.get(name))
        for seed, (name, recipe) in enumerate(recipes.items())
    ]


def render_in_line(rank, folder):
    """Requests at once on ranks that split the layers, and each alone on one rank, or on these with patches."""
    layout = Layout(cfg=rank.ranks // 2, pipe=2)
    lane = Mesh.create([layout], rank.device).lane(layout)
    alone = open_checkpoint(folder, device=rank.device)
    pipeline = LayerPipeline(lane.pipe, 2)
    own = open_checkpoint(folder, device=rank.device, layers=pipeline.layers)
    own.use_stages(pipeline)
    around = ParallelBranches(lane.cfg, rank.device) if lane.cfg.size > 1 else SequentialBranches()
    station = Station(
        branches=PipelinedBranches(pipeline, around=around),
        pipeline=pipeline,
        patched=lambda patching: PatchBranches(pipeline, patching, around=around),
    )
    requests, lines = line_requests(), []

    def run_steps(steps, run=pipeline.run_steps):
        lines.append(len(steps))
        return run(steps)

    pipeline.run_steps = run_steps
    clips, reports = render_together(Rank(own, stations={layout: station}), requests, layout)
    wanted = {}
    for request in requests:
        if request.request_id != "broken":
            on = Rank(own, stations={layout: station}) if request.patching else Rank(alone)
            wanted[request.request_id] = render_on(on, request, layout if request.patching else Layout())
    costs = [cost for report in reports for cost in report.costs if cost.stage is Stage.DENOISE]
    return {
        "equal": {name: clips[name] == clip for name, clip in wanted.items()},
        "far": clips["patched"] != render_on(Rank(alone), replace(requests[-1], patching=None)),
        "lines": lines,
        "failures": [(f.request_id, f.error.message) for report in reports for f in report.failures],
        "costs": {
            name: [(cost.forwards, cost.seconds > 0) for cost in costs if cost.request_id == name] for name in clips
        },
    }


def render_together(rank, requests, layout):
    """Drive a rank with all requests at work at once."""
    core, clips, reports = EngineCore(EngineLimits(requests=9), layouts=(layout,)), {}, []
    for request in requests:
        clips[request.request_id] = b""
        core.submit(request, rank.describe().facts)
    while (plan := core.next_step(0.0)) is not None:
        reports.append(keep_frames(rank.execute(plan)))
        core.report(reports[-1])
        for frames in reports[-1].frames:
            clips[frames.request_id] += frames.data
            core.acknowledge(frames.request_id, frames.count)
    return clips, reports


def render_all(rank, folder, request):
    """A request of two chunks through the engine: alone, on exact pipelines, with stale keys."""
    layout = Layout(pipe=2)
    pipeline = LayerPipeline(Mesh.create([layout], rank.device).lane(layout).pipe, 2)
    own = open_checkpoint(folder, device=rank.device, layers=pipeline.layers)
    own.use_stages(pipeline)
    ways = {
        "sequential": SequentialBranches(),
        "pipelined": PipelinedBranches(pipeline),
        "all exact": PatchBranches(pipeline, Patching(patches=2, exact_steps=4)),
        "patches": PatchBranches(pipeline, Patching(patches=2, exact_steps=1)),
    }
    videos = {name: render(own, request, branches) for name, branches in ways.items()}
    assert sum(len(block._parameters) for block in own.parts.transformer.blocks) == 1  # of two, one is here
    return videos | {"alone": render(open_checkpoint(folder, device=rank.device), request, SequentialBranches())}


def render(model, request, branches):
    return render_on(Rank(model, stations={Layout(): Station(branches=branches)}), request)


@torch.inference_mode()
def run_cases(rank):
    names = LAYOUTS[rank.ranks]
    mesh = Mesh.create([Layout.parse(name) for name in names], rank.device, timeout_s=60)
    lanes = {name: mesh.lane(Layout.parse(name)) for name in names}
    found = {"layers": {name: LayerPipeline(lane.pipe, 5).layers for name, lane in lanes.items()}}
    found["exact"] = {
        (name, model, dtype): exact(Guided(rank, model, dtype, lane, batch=batch))
        for name, lane in lanes.items()
        for model, dtype, batch in MODELS
    }
    guided = Guided(rank, "t2v", F32, lanes[names[0]])
    found["stream"] = {videos: stream(guided, videos) for videos in (1, rank.ranks, rank.ranks + 2)}
    found["refused"] = refusals(rank, guided, lanes)
    found["patches"] = patches(guided)
    found["i2v patches"] = same_twice(Guided(rank, "i2v", F32, lanes[names[0]]), 3)
    if rank.ranks == 4:
        found["cfg patches"] = cfg_patches(rank, lanes)
    mesh.close()
    return found


def exact(guided):
    lane = guided.lane
    sharding = SequenceSharding(lane) if lane.sequence.size > 1 else None
    ways = {"sequential": SequentialBranches(), "pipelined": PipelinedBranches(guided.pipeline)}
    if lane.cfg.size == 2:
        ways = {"cfg": ParallelBranches(lane.cfg, guided.latents.device)}
    return {
        (way, weight): (
            guided.together(branches.begin(), guided.latents, weight, sharding=sharding).cpu(),
            guided.alone(guided.latents, weight).cpu(),
        )
        for way, branches in ways.items()
        for weight in (3.0, 1.0)
    }


def stream(guided, videos, steps=3):
    """Several videos, the steps of each after one another; says in which order forwards began and ended."""
    latents = [guided.noise(seed) for seed in range(videos)]
    expected = list(latents)
    for _ in range(steps):
        expected = [x + 0.3 * WholeModel().evaluate(guided.open(x, model="whole")) for x in expected]
    log, order, ready = [], deque(), deque((video, 0) for video in range(videos))

    def forwards():
        left = videos * steps
        while left:
            if not ready:
                log.append("wait")
                yield None
                continue
            video, step = ready.popleft()
            order.append((video, step))
            log.append(f"take {video}")
            left -= 1
            yield guided.open(latents[video])

    for prediction in guided.pipeline.run(forwards()):
        video, step = order.popleft()
        log.append(f"got {video}")
        latents[video] = latents[video] + 0.3 * prediction
        if step + 1 < steps:
            ready.append((video, step + 1))
    return {
        "log": log,
        "equal": all(map(torch.equal, latents, expected)),
        "moved": bool((latents[0] != guided.noise(0)).all()),
    }


def refusals(rank, guided, lanes):
    def attempt(call):
        try:
            return call()
        except Exception as error:  # noqa: BLE001  the parent looks at it
            return error

    lane = guided.lane
    found = {
        "layers": attempt(lambda: LayerPipeline(lane.pipe, rank.ranks - 1)),
        "elsewhere": attempt(lambda: guided.kept(guided.latents, guided.kept_inputs[1], guided.kept_inputs[2][0])),
        "no stages": attempt(
            lambda: PipelinedBranches(guided.pipeline).predict(lambda _: guided.latents, 3.0, shape=guided.shape)
        ),
        "deferred": attempt(lambda: use_deferred(guided)),
        "patches": attempt(lambda: guided.together(guided.patched(36), guided.latents)),
    }
    if rank.ranks == 4:
        other = Guided(rank, "t2v", F32, lanes["pipe=2,ulysses=2"])
        sharding = SequenceSharding(other.lane)
        found["ulysses"] = attempt(lambda: other.together(other.patched(2), other.latents, sharding=sharding))
    return found


def use_deferred(guided):
    with guided.pipeline.defer():
        return (guided.pipeline.evaluate(guided.open(guided.latents)) + guided.latents).sum().item()


def patches(guided):
    """How far the patch pipeline is from one rank, in the cases that the tests name."""
    found = {
        "all exact": walk_gap(guided, 3, exact_steps=6),
        "one patch": walk_gap(guided, 1),
        "walk": {count: walk_gap(guided, count) for count in (2, 3, 5)},
        "slow walk": {count: walk_gap(guided, count, pace=0.05) for count in (2, 3, 5)},
        "same twice": {count: same_twice(guided, count) for count in (2, 3, 5)},
        "flags": [guided.patched(count).exact for count in (1, 2)] + [guided.pipeline.exact],
    }
    first, second = guided.noise(7), guided.noise(8)
    branches = guided.patched(3)
    guided.together(branches, first)
    stale = guided.together(branches, second)
    found["new latents"] = gap(stale, guided.alone(second))
    found["bytes"] = (branches.nbytes, 2 * len(guided.pipeline.layers) * 2 * guided.open(first).stream.empty().nbytes)
    branches.reset()
    found["reset"] = (branches.nbytes, gap(guided.together(branches, second), guided.alone(second)))
    found["two requests"] = two_requests(guided)
    branches = guided.patched(2)
    guided.together(branches, first)
    guided.together(branches, guided.noise(9), 1.0)
    found["sat out"] = gap(guided.together(branches, second, 0.0), guided.alone(second, 0.0))
    return found


def walk_gap(guided, count, *, exact_steps=2, pace=0.2, steps=6):
    """Relative error of the last prediction after a short denoise run, and whether it is equal to the bit."""
    alone = together = guided.noise(5)
    branches = guided.patched(count, exact_steps)
    for _ in range(steps):
        expected, found = guided.alone(alone), guided.together(branches, together)
        alone, together = alone - pace * expected, together - pace * found
    return gap(found, expected), torch.equal(found, expected)


def same_twice(guided, count):
    """Stale keys equal fresh ones where the latents have not moved, whatever came before the exact step."""
    branches = guided.patched(count)
    guided.together(branches, guided.latents)
    return gap(guided.together(branches, guided.latents), guided.alone(guided.latents))


def two_requests(guided):
    """Requests taking turns leave each other alone."""
    rank_wide = guided.patched(2)
    videos = {3: rank_wide.begin(), 4: rank_wide.begin()}
    turns = {seed: [] for seed in videos}
    for step in range(3):
        for seed, branches in videos.items():
            turns[seed].append(guided.together(branches, guided.noise(seed) * (1 - 0.2 * step)))
    for seed, expected in turns.items():
        branches = guided.patched(2)
        found = [guided.together(branches, guided.noise(seed) * (1 - 0.2 * step)) for step in range(3)]
        if not all(map(torch.equal, found, expected)):
            return False
    return True


def cfg_patches(rank, lanes):
    """Patches on two branches side by side, and on one branch behind the other."""
    beside, behind = (Guided(rank, "t2v", F32, lanes[name]) for name in ("cfg=2,pipe=2", "replica=2,pipe=2"))
    around = ParallelBranches(beside.lane.cfg, rank.device)
    runs = []
    for guided, branches in ((beside, beside.patched(3, around=around).begin()), (behind, behind.patched(3))):
        runs.append(
            [guided.together(branches, guided.noise(seed), w) for seed, w in ((1, 3.0), (2, 3.0), (3, 1.0), (4, 2.0))]
        )
    exact_last = behind.alone(behind.noise(2))
    return all(map(torch.equal, *runs)), gap(runs[0][1], exact_last)


def gap(found, expected):
    return ((found - expected).norm() / expected.norm()).item()
