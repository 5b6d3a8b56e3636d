"""What the ranks of a test do; they are fresh processes, so everything they need is imported here."""

import os
import signal
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import distributed as dist

from reelray.proto.layout import Layout
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.models.attention_op import View, WindowAttention
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.parallel.cfg import ParallelBranches
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.sequence_attention import SequenceAttention
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.token_split import TokenSplit
from reelray.workers.samplers.guidance import Branch, SequentialBranches
from tests.support.fake_model import FakeModel
from tests.support.file_memory import open_file_memory
from tests.support.ordered_core import Thirds
from tests.support.render_on import render_on

SIZE = (3, 10, 14)  # 3 latent frames of 5 x 7 tokens: nothing divides
TINY = {
    "attention_head_dim": 16,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 80,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}
MODELS = {
    "t2v": {**TINY, "num_attention_heads": 4},
    "three heads": {**TINY, "num_attention_heads": 3},
    "i2v": {**TINY, "num_attention_heads": 3, "in_channels": 36, "image_dim": 20, "added_kv_proj_dim": 48},
}


def make_model(name, dtype, device, **sizes):
    torch.manual_seed(0)
    model = WanTransformer(WanConfig(**MODELS[name] | sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # A fresh model predicts zero.
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.05))
    return model.to(device, dtype)


def make_inputs(model, *, size=SIZE, batch=1, per_frame=True):
    """Latents, timesteps, the texts of the two branches, and the image."""
    config, generator = model.config, torch.Generator().manual_seed(1)
    latents = torch.randn(batch, config.in_channels, *size, generator=generator).to(model.device)
    texts = torch.randn(2, batch, 12, config.text_dim, generator=generator).to(model.device)
    timestep = torch.linspace(900, 100, batch * size[0]).view(batch, -1) if per_frame else torch.full((batch,), 500.0)
    image = None
    if config.is_i2v:
        image = model.prepare_image(torch.randn(batch, 9, config.image_dim, generator=generator).to(model.device))
    return latents, timestep.to(model.device), [model.prepare_text(text) for text in texts], image


@torch.inference_mode()
def predict(model, *, branches=None, sharding=None, weight=3.0, core=False, **inputs):
    """One guided prediction, as a rank makes it."""
    latents, timestep, texts, image = make_inputs(model, **inputs)
    _, _, frames, height, width = latents.shape

    def evaluate(branch):
        places = height * width // 4
        view = View(core=Thirds(frames * places)) if core else None
        shard = (sharding or WholeWindow()).shard(frames, places, view)
        return model(latents, timestep, texts[branch], image=image, shard=shard).float()

    shape = (latents.shape[0], model.config.out_channels, *latents.shape[2:])
    return (branches or SequentialBranches()).predict(evaluate, weight, shape=torch.Size(shape)).cpu()


def in_groups(head_groups):
    return partial(SequenceAttention, head_groups=head_groups)


def predict_on(mesh, layout, model, *, head_groups=0, make_attention=None, **inputs):
    lane = mesh.lane(layout)
    branches = ParallelBranches(lane.cfg, model.device) if layout.cfg == 2 else None
    sharding = SequenceSharding(lane, make_attention=make_attention or in_groups(head_groups))
    return predict(model, branches=branches, sharding=sharding, **inputs)


@torch.inference_mode()
def attention_gap(mesh, layout, device, *, heads, head_groups=0, places=11, make_attention=None):
    """By how much this rank's attention differs from attention on one rank."""
    frames, lane = 3, mesh.lane(layout)
    generator = torch.Generator().manual_seed(2)
    fused = torch.randn(2, frames * places, 3 * heads * 16, generator=generator).to(device)
    parts = [part.unflatten(-1, (heads, 16)) for part in fused.chunk(3, -1)]
    split = TokenSplit(
        frames=frames, places=places, ring=layout.ring, ulysses=layout.ulysses, index=lane.sequence.index
    )
    rest = {"layer": 0, "cos_BSP": None, "sin_BSP": None}
    attention = (make_attention or in_groups(head_groups))(lane, split)
    found = attention(*(split.take(part) for part in parts), **rest)
    return (found - split.take(WindowAttention()(*parts, **rest))).abs().max().item()


@dataclass(frozen=True)
class World:
    """What the ranks of one spawned world returned."""

    ranks: int
    device: str
    results: list[dict]


def render_request(request, branches=None):
    """Render a request with the fake model; returns its bytes and the prompts that this rank evaluated."""
    model, station = FakeModel(), Station() if branches is None else Station(branches=branches)
    return render_on(Rank(model, stations={Layout(): station}), request), model.calls


def count_groups():
    return len(dist.distributed_c10d._world.pg_map)


def run_cases(rank, layouts, cases, attentions, request):
    """Predict each case (layout, model, dtype, options); returns the predictions and what the mesh said."""
    parsed = [Layout.parse(layout) for layout in layouts]
    mesh = Mesh.create(parsed, rank.device, timeout_s=60, open_memory=open_file_memory)
    groups = [count_groups()]
    models, predictions = {}, []
    for layout, name, dtype, options in cases:
        if (name, dtype) not in models:
            models[name, dtype] = make_model(name, dtype, rank.device)
        predictions.append(_attempt(predict_on, mesh, Layout.parse(layout), models[name, dtype], **options))
        groups.append(count_groups())
    facts = describe(mesh, layouts)
    facts["attention"] = [
        _attempt(attention_gap, mesh, Layout.parse(layout), rank.device, **options) for layout, options in attentions
    ]
    if (rank.ranks, rank.device.type) == (2, "cpu"):
        facts["video"] = _attempt(render_request, request, ParallelBranches(mesh.lane(Layout(cfg=2)).cfg, "cpu"))
    facts["calls"] = branch_calls(mesh, layouts, rank.device)
    lane = mesh.lane(Layout.parse(layouts[0]))
    mesh.close()
    facts["closed"] = [_attempt(mesh.lane, lane.layout), _attempt(lambda: lane.sequence.process_group)]
    return {"predictions": predictions, "groups": groups, **facts}


def describe(mesh, layouts):
    lanes = {layout: mesh.lane(Layout.parse(layout)) for layout in layouts}
    axes = ("cfg", "pipe", "ring", "ulysses", "sequence")
    found = {
        layout: {axis: (getattr(lane, axis).ranks, getattr(lane, axis).index) for axis in axes} | {"lane": lane.ranks}
        for layout, lane in lanes.items()
    }
    for layout, lane in lanes.items():
        for axis in axes:
            group = getattr(lane, axis)
            assert dist.get_process_group_ranks(group.process_group) == list(group.ranks), (layout, axis)
        for axis in ("ring", "ulysses", "cfg"):
            assert lane.device_mesh[axis].get_group() is getattr(lane, axis).process_group
    unknown = _attempt(mesh.lane, Layout(pipe=dist.get_world_size()))
    return {"lanes": found, "mesh_groups": mesh.groups, "unknown": unknown}


def branch_calls(mesh, layouts, device):
    """Which branches this rank evaluates at weight 3 and at weight 1, and what comes of weight 1."""
    found = {}
    for layout in layouts:
        lane = mesh.lane(Layout.parse(layout))
        if lane.cfg.size == 1:
            continue
        branches, calls = ParallelBranches(lane.cfg, device), []

        def evaluate(branch, calls=calls):
            calls.append(Branch(branch).name)
            return torch.full((1, 2), 1.0 + branch + 10 * dist.get_rank(), device=device)

        results = [branches.predict(evaluate, weight, shape=torch.Size((1, 2))) for weight in (3.0, 1.0)]
        found[layout] = (calls, [result.tolist() for result in results])
    return found


def _attempt(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  the parent looks at it
        return error


def fail_on(rank, number, how):
    """The ranks wait for each other; one of them never comes."""
    if rank.rank == number:
        if how == "error":
            raise ValueError("no such thing")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    dist.all_reduce(torch.zeros(1))


def tell(rank, word):
    ranks = torch.tensor([rank.rank])
    dist.all_reduce(ranks)
    return word, rank.rank, rank.ranks, ranks.item(), torch.get_num_threads()


def wrong_meshes(rank):
    return [_attempt(Mesh.create, [Layout(ulysses=rank.ranks), layout], "cpu") for layout in (Layout(), Layout(ring=3))]


def abort_mesh(rank, store):
    """Each rank gives up by itself; then all join another gang."""
    mesh = Mesh.create([Layout(ulysses=2)], "cpu", timeout_s=60)
    lane = mesh.lane(Layout(ulysses=2))
    mesh.abort()
    mesh.abort()
    mesh.close()
    found = [_attempt(mesh.lane, lane.layout), _attempt(lambda: lane.ulysses.process_group)]
    dist.init_process_group("gloo", init_method=store, rank=rank.rank, world_size=rank.ranks)
    lane = Mesh.create([Layout(ulysses=2)], "cpu").lane(Layout(ulysses=2))
    ranks = torch.tensor([rank.rank])
    dist.all_reduce(ranks, group=lane.ulysses.process_group)
    return [*found, ranks.item()]


def check_gang(rank, word, store):
    return {"told": tell(rank, word), "wrong": wrong_meshes(rank), "aborted": abort_mesh(rank, store)}
