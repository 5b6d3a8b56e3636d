"""Recorded forwards: a recorder for CPUs, and what ranks do with recordings."""

import torch
from torch import distributed as dist

from reelray.proto.layout import Layout
from reelray.workers.models.captured import CapturedModel, CudaRecorder, Recorded
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.stages import WholeModel
from reelray.workers.models.wan.rope import Positions
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from tests.support.file_memory import open_file_memory
from tests.support.parallel_cases import make_model

SIZE = (3, 6, 10)
SHARD = WholeWindow()


class Replayer:
    """Records like a graph: what is run again reads and writes the addresses of the first run alone."""

    def __init__(self):
        self.recorded = self.replayed = self.alive = self.renewed = 0

    def __call__(self, run):
        self.recorded += 1
        self.alive += 1
        result = run()

        def replay():
            self.replayed += 1
            result.copy_(run())

        def reset():
            self.alive -= 1

        return Recorded(replay=replay, reset=reset, result=result)

    def renew(self):
        assert self.alive == 0
        self.renewed += 1


def open_forward(model, *, seed, words=5, size=SIZE, first=0, step=500.0, context=None, image=None, shard=None):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, model.config.in_channels, *size, generator=generator)
    if context is None:
        context = make_context(model, seed, words)
    return model.open_forward(
        latents.to(model.device, model.dtype),
        torch.full((1, size[0]), step, device=model.device),
        context,
        positions=Positions(frames=torch.arange(first, first + size[0], device=model.device)),
        image=image,
        shard=shard or SHARD,
    )


def make_context(model, seed, words):
    text = torch.zeros(1, 16, model.config.text_dim)
    text[:, :words] = torch.randn(1, words, model.config.text_dim, generator=torch.Generator().manual_seed(seed))
    return model.prepare_text(text.to(model.device), merge_padding=True)


class Full(Replayer):
    """Runs out of memory at the end. A CUDA graph is recorded without running, so its exchanges wait for nobody."""

    def __call__(self, run):
        if not torch.cuda.is_available():
            run()
        raise torch.OutOfMemoryError("CUDA out of memory")


def run_captured(rank, layout):
    """Largest gap between recorded and plain forwards of one lane, and whether each kind was recorded."""
    device = str(rank.device)
    mesh = Mesh.create([Layout.parse(layout)], rank.device, open_memory=open_file_memory)
    sharding = SequenceSharding(mesh.lane(Layout.parse(layout)))
    model = make_model("t2v", torch.float32, device)
    shard = sharding.shard(SIZE[0], SIZE[1] * SIZE[2] // 4)
    found = {}
    recorders = {"all": CudaRecorder() if rank.device.type == "cuda" else Replayer()}
    recorders["one has no memory"] = Full() if rank.rank == 1 else recorders["all"]
    for name, record in recorders.items():
        captured, gaps = CapturedModel(record), []
        with torch.inference_mode():
            for seed in range(4):
                ours = captured.evaluate(open_forward(model, seed=seed, words=5, shard=shard))
                theirs = WholeModel().evaluate(open_forward(model, seed=seed, words=5))
                gaps.append((ours - theirs).abs().max().item())
        kept = [entry.recording for shelf in captured._shelves.values() for entry in shelf.values()]
        found[name] = max(gaps), [recording is not None for recording in kept]
        captured.forget()
    mesh.close()
    dist.barrier()
    return found
