"""Transformers whose blocks are elsewhere, and what ranks that share them do."""

import gc

import torch

from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, WeightShare
from reelray.workers.models.wan.weights import load_transformer, save_transformer
from reelray.workers.parallel.cfg import ParallelBranches
from reelray.workers.parallel.layer_split import split_layers
from reelray.workers.parallel.mesh import Mesh, find_share
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.weight_gather import WeightGather
from reelray.workers.residency.shared_blocks import use_gather
from tests.support.parallel_cases import make_model, predict

F32, BF16 = torch.float32, torch.bfloat16
LAYERS = 5
LAYOUTS = {2: ["ulysses=2", "cfg=2"], 4: ["replica=2,ring=2", "cfg=2,ulysses=2", "pipe=2,ulysses=2"]}
MODELS = [("t2v", F32), ("i2v", BF16)]


def save_model(folder, name, **sizes):
    save_transformer(make_model(name, F32, "cpu", **{"num_layers": LAYERS} | sizes), folder / name)
    return folder / name


def load(folder, dtype=F32, device="cpu", **placing):
    return load_transformer(folder, device, dtype, **placing).requires_grad_(requires_grad=False)


def block_bytes(transformer):
    return sum(parameter.nbytes for parameter in transformer.blocks.parameters())


def run_shared(rank, folder):
    """Predict with resident and with sharded weights under each layout; returns what differs and what is held."""
    mesh = Mesh.create(
        [Layout.parse(text) for text in LAYOUTS[rank.ranks]], rank.device, shares_weights=True, timeout_s=60
    )
    found = {}
    for text in LAYOUTS[rank.ranks]:
        lane, share = mesh.lane(Layout.parse(text)), find_share(Layout.parse(text), rank.rank)
        for name, dtype in MODELS:
            found[text, name] = compare(rank, lane, share, folder / name, dtype)
    found["unknown"] = complaint(rank, folder / "t2v")
    found["groups"] = (len(lane.weights.ranks), lane.weights.process_group is not lane.everyone.process_group)
    mesh.close()
    return found


def compare(rank, lane, share, folder, dtype):
    layers = split_layers(LAYERS, lane.pipe.size)[lane.pipe.index]
    whole = load(folder, dtype, rank.device)
    whole_bytes = block_bytes(whole)
    shared = load(folder, dtype, rank.device, blocks=Blocks.SHARDED, share=share)
    use_gather(shared.source, WeightGather(lane.weights))
    if lane.pipe.size > 1:
        whole.keep_layers(layers)
        shared.keep_layers(layers)
        gap = through_layers(whole, layers) - through_layers(shared, layers)
        gaps = [gap.abs().max().item()]
    else:
        gaps = [guided_gap(lane, whole, shared, weight) for weight in (3.0, 1.0)]
    return {
        "gaps": gaps,
        "share": share,
        "held": shared.source.feed.held_bytes / whole_bytes,
        "slots": shared.source.device_bytes / whole_bytes * LAYERS,
        "blocks": sum(p.nbytes for p in shared.blocks.parameters() if p.device.type != "meta"),
    }


def guided_gap(lane, whole, shared, weight):
    branches = [
        ParallelBranches(lane.cfg, whole.device, in_step=in_step) if lane.cfg.size == 2 else None
        for in_step in (False, True)
    ]
    sharding = SequenceSharding(lane)
    pair = [
        predict(model, branches=way, sharding=sharding, weight=weight)
        for model, way in zip((whole, shared), branches, strict=True)
    ]
    assert pair[0].abs().mean() > 0.1
    return (pair[0] - pair[1]).abs().max().item()


@torch.inference_mode()
def through_layers(model, layers):
    """A stage of a pipeline, twice over."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, model.config.in_channels, 2, 4, 4, generator=generator).to(model.device)
    text = model.prepare_text(torch.randn(1, 6, model.config.text_dim, generator=generator).to(model.device))
    opened = model.open_forward(latents, torch.tensor([500.0], device=model.device), text)
    return opened.run(opened.run(opened.embed(), layers), layers).float()


def complaint(rank, folder):
    lost = load(folder, device=rank.device, blocks=Blocks.SHARDED, share=WeightShare(index=0, ranks=2))
    try:
        lost.block(0)
    except Exception as error:  # noqa: BLE001
        return str(error)
    return ""


def peak_of(device, work):
    """Most bytes that torch held on a GPU during some work, beyond those before it; and what the work returned."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before, result
