"""Optimisers, ranks and states of the training example, on modules of a few hundred weights."""

import copy

import pytest
import torch
from torch import distributed, multiprocessing, nn

from examples.train_sprites.clock import Clock
from examples.train_sprites.optimisers import Muon, orthogonalise, split_for_muon
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.state_parts import pack, read_parts, unpack, write_parts
from examples.train_sprites.training import Optimisation, Trainer

SETTINGS = Optimisation(muon_prefixes=("0",), warmup_steps=2, ema=0.9)


def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 4))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 8, generator=generator), torch.randn(16, 4, generator=generator)


def run_steps(trainer, steps, rows=slice(None)):
    for _ in range(steps):
        x, y = batch(trainer.step)
        trainer.update((trainer.module(x[rows]) - y[rows]).square().mean())


def train_rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ranks = Ranks(rank=rank, count=2, wire_dtype=torch.float32)
    module = build()
    if rank == 1:
        for weight in module.parameters():
            weight.data.add_(1)  # the first rank's weights must win
    trainer = Trainer(module, SETTINGS, 10, folder / str(rank), ranks)
    run_steps(trainer, 5, slice(8 * rank, 8 * rank + 8))
    trainer.log(event="done")
    clock = Clock(ranks, budget_s=10 + rank)
    clock.trained_s = 5.0
    ends = clock.synchronise(over=rank == 0)
    states = trainer.module.state_dict(), trainer.average.state_dict(), clock.progress, ends
    torch.save(states, folder / f"{rank}.pt")
    ranks.leave()


def test_every_step_sees_the_gradient_of_its_own_batch_alone(tmp_path):
    trainer = Trainer(build(), SETTINGS, 10, tmp_path)
    run_steps(trainer, 3)
    x, y = batch(trainer.step)
    twin = copy.deepcopy(trainer.module)
    twin.zero_grad(set_to_none=True)
    (twin(x) - y).square().mean().backward()
    norm = trainer.update((trainer.module(x) - y).square().mean())
    wanted = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    torch.testing.assert_close(norm, wanted)


def test_two_ranks_equal_one_process_with_their_batches_together(tmp_path):
    multiprocessing.spawn(train_rank, (tmp_path,), nprocs=2)
    alone = Trainer(build(), SETTINGS, 10, tmp_path / "alone")
    run_steps(alone, 5)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, wanted in alone.module.state_dict().items():
        assert torch.equal(first[0][name], second[0][name])
        assert torch.equal(first[1][name], second[1][name])
        torch.testing.assert_close(first[0][name], wanted, atol=2e-5, rtol=0)
        assert (build().state_dict()[name] - wanted).abs().max() > 1e-3
    assert first[2:] == second[2:] == (0.5, True)
    assert (tmp_path / "0" / "log.jsonl").exists()
    assert not (tmp_path / "1" / "log.jsonl").exists()


def test_orthogonalised_matrices_have_singular_values_about_one():
    matrices = torch.randn(3, 16, 40) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_steps_each_third_of_a_fused_matrix_by_itself():
    fused, single = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)
    single.weight.data.copy_(fused.weight[8:16])
    fused.weight.grad = torch.randn(24, 8)
    single.weight.grad = fused.weight.grad[8:16].clone()
    for layer in (fused, single):
        Muon([layer.weight]).step(0.1)
    torch.testing.assert_close(fused.weight[8:16], single.weight, atol=2e-3, rtol=0)


def test_tall_matrices_are_stepped_lying_down():
    tall = nn.Linear(4, 10, bias=False)
    before = tall.weight.detach().clone()
    tall.weight.grad = before.clone()
    Muon([tall.weight], weight_decay=0.0).step(1.0)
    update = (before - tall.weight.detach()).double()
    assert torch.linalg.svdvals(update).min() > 0.5 * 0.2 * 10**0.5


def test_only_matrices_behind_a_prefix_go_to_muon():
    matrices, others = split_for_muon(build(), ("0",))
    assert [tuple(p.shape) for p in matrices] == [(24, 8)]
    assert len(others) == 3


def test_three_bytes_keep_a_weight_within_a_part_in_thirty_thousand():
    weights = torch.randn(7, 5) * 10.0 ** torch.arange(-4, 1)
    again = unpack(pack(weights), weights.shape)
    assert ((again - weights).abs() <= 2**-15 * weights.abs()).all()
    assert not torch.equal(again.bfloat16().float(), again)


def test_a_state_comes_back_from_its_parts_and_training_goes_on(tmp_path):
    trainer = Trainer(build(), SETTINGS, 100, tmp_path)
    run_steps(trainer, 30)
    files = write_parts(trainer.compact_state(), tmp_path, part_bytes=2000)
    assert len(files) > 3
    assert all(path.stat().st_size <= 2000 for path in files)
    resumed = Trainer(build(), SETTINGS, 100, tmp_path)
    resumed.load_compact(read_parts(tmp_path))
    assert resumed.step == 30
    weight = trainer.module[2].weight
    torch.testing.assert_close(resumed.module[2].weight, weight, rtol=2**-15, atol=0)
    moment = resumed.optimiser.state[resumed.module[2].weight]
    assert moment["exp_avg_sq"].dtype == torch.float32
    torch.testing.assert_close(moment["exp_avg"], trainer.optimiser.state[weight]["exp_avg"], rtol=1e-2, atol=1e-6)
    before = copy.deepcopy(resumed.module.state_dict())
    run_steps(resumed, 1)
    assert not torch.equal(before["2.weight"], resumed.module[2].weight)


def test_a_later_state_replaces_the_parts_of_the_one_before(tmp_path):
    write_parts({"value": torch.zeros(999)}, tmp_path, part_bytes=1000)
    files = write_parts({"value": torch.ones(10)}, tmp_path)
    assert sorted(tmp_path.glob("state*")) == sorted(files)
    assert read_parts(tmp_path)["value"].sum() == 10


def test_a_lost_or_damaged_part_is_named(tmp_path):
    assert read_parts(tmp_path) is None
    part = write_parts({"value": torch.ones(10)}, tmp_path)[1]
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="checksum"):
        read_parts(tmp_path)
    part.unlink()
    with pytest.raises(ValueError, match="lacks"):
        read_parts(tmp_path)


def test_parameters_with_a_rate_of_their_own_move_by_it(tmp_path):
    still = Optimisation(own_rates=(("2", 0.0),), warmup_steps=1)
    trainer = Trainer(build(), still, 10, tmp_path)
    before = copy.deepcopy(trainer.module.state_dict())
    run_steps(trainer, 2)
    moved = {name: not torch.equal(value, before[name]) for name, value in trainer.module.state_dict().items()}
    assert moved == {"0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False}
