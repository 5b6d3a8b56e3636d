"""A rollout over a memory, on one rank or on several that share its heads."""

from functools import partial

import torch

from reelray.proto.bank_rule import BankRule
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import MemoryRule, Placement
from reelray.workers.engine.station import keep
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.room import Grid, MemoryRoom
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.wan.rope import Positions
from reelray.workers.parallel.mesh import Mesh, add_up
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.token_split import split_evenly
from tests.support.file_memory import open_file_memory
from tests.support.parallel_cases import make_model

GRID, CHUNK = Grid(rows=3, columns=5), 2
RULES = (
    MemoryRule(local=4, sink=1),
    MemoryRule(local=4, sink=1, means=(0.3,), placement=Placement.RELATIVE),
    MemoryRule(local=2, sink=1, bank=BankRule(size=2)),
)


@torch.inference_mode()
def roll(model, rule, *, sharding=None, ranks=1, index=0, add_up=keep, between=lambda memory: memory):
    """Predict six chunks, each once noisy and once clean, which is remembered; all predictions one after the other.

    `between` two chunks something may happen to the memory, or another one be taken.
    """
    config = model.config
    own = split_evenly(config.num_attention_heads, ranks)[index]
    shape = KeyShape(layers=config.num_layers, heads=len(own), width=config.attention_head_dim, dtype=model.dtype)

    device = model.device

    def angles(positions, grid):
        turned = model.rope(Positions(frames=torch.tensor(positions, device=device)), grid.rows, grid.columns)
        return turned.cos, turned.sin

    room = MemoryRoom(
        shape, budget_bytes=1 << 22, device=device, angles=angles, first_head=own.start, rows=4, host_bytes=1 << 22
    )
    memory = room.open(rule, chunk=CHUNK, grid=GRID)
    generator = torch.Generator().manual_seed(3)
    text = model.prepare_text(torch.randn(1, 12, config.text_dim, generator=generator).to(device))
    found = []
    for first in range(0, 6 * CHUNK, CHUNK):
        memory.settle(lambda: torch.stack([keys_BKND.mean(1)[0] for keys_BKND in text.keys]), add_up)
        for timestep in (700.0, 0.0):
            latents = torch.randn(1, 16, CHUNK, 2 * GRID.rows, 2 * GRID.columns, generator=generator).to(device)
            view = memory.view(first, CHUNK, records=timestep == 0)
            frames = torch.tensor(memory.positions(first, CHUNK), device=device)
            shard = (sharding or WholeWindow()).shard(CHUNK, GRID.places, view)
            times = torch.full((1, CHUNK), timestep, device=device)
            found.append(model(latents, times, text, positions=Positions(frames=frames), shard=shard).float().cpu())
        memory.commit(first, CHUNK)
        memory = between(memory)
    return torch.cat(found, 2)


def roll_on_ranks(rank, layouts):
    """Every rank's predictions of each layout, model and rule."""
    parsed = [Layout.parse(layout) for layout in layouts]
    mesh = Mesh.create(parsed, rank.device, timeout_s=60, open_memory=open_file_memory)
    found = {}
    for layout in layouts:
        lane = mesh.lane(Layout.parse(layout))
        for name in ("t2v", "three heads"):
            model = make_model(name, torch.float32, rank.device)
            if lane.ulysses.size > model.config.num_attention_heads:
                continue
            for number, rule in enumerate(RULES):
                sharding = SequenceSharding(lane)
                options = {"sharding": sharding, "ranks": lane.ulysses.size, "index": lane.ulysses.index}
                options["add_up"] = partial(add_up, lane.ulysses)
                found[layout, name, number] = roll(model, rule, **options)
    return found
