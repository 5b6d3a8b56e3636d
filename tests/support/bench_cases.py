"""What ranks do in tests of benchmarks; they are fresh processes, so everything they need is imported here."""

import contextlib
from dataclasses import replace
from unittest import mock

import torch

from reelray.proto.errors import UnsupportedError
from reelray.workers.bench import forwards
from reelray.workers.bench.case import Peer
from reelray.workers.bench.rank import run_case
from reelray.workers.models.wan.bench_model import WanBenchModel
from reelray.workers.parallel.sequence_sharding import SequenceShard
from reelray.workers.parallel.vae_rows import GroupRows
from reelray.workers.parallel.xfuser_attention import Xfuser
from tests.support.xfuser_on_cpu import load_xfuser

OPEN_PEER = "open_peer"


def run_broken(rank, case):
    """The case with one thing broken at a time; returns the findings of each."""
    return {
        name: _with(
            patch,
            rank,
            replace(
                case,
                parts=("decode",) if "rows" in name else ("forward",),
                against=() if "remembered" in name else ("xfuser",) if "xfuser" in name else case.against,
                remembered=3 if "remembered" in name else 0,
            ),
        )
        for name, patch in breakages(rank).items()
    }


def breakages(rank):
    def fail_on_one_rank(*_):
        if rank.rank == 1:
            raise ValueError("no such backend")
        return Peer(alone=None, together=lambda inputs: inputs.latents_BCTHW)

    def miss(*_):
        raise UnsupportedError("not installed")

    def wrong(*_):
        return Peer(alone=None, together=lambda inputs: torch.zeros_like(inputs.latents_BCTHW))

    join, gather = SequenceShard.join, GroupRows.gather
    swap = {forwards.Branch.CONDITIONAL: 1, forwards.Branch.UNCONDITIONAL: 0}
    predict = WanBenchModel.predict

    draw_past = WanBenchModel.draw_past

    def of_another(self, tokens, window, *, ranks, index, seed):
        return draw_past(self, tokens, window, ranks=ranks, index=index, seed=seed + index)

    def swapped(self, inputs, branch, sharding):
        shared = not isinstance(sharding, forwards.WholeWindow)
        return predict(self, inputs, forwards.Branch(swap[branch]) if shared else branch, sharding)

    def silent(self, inputs, branch, sharding):
        whole = isinstance(sharding, forwards.WholeWindow)
        found = predict(self, inputs, branch, sharding)
        return found if whole else found * float("nan") if rank.rank == 1 else found

    return {
        "peer fails on one rank": mock.patch.object(WanBenchModel, OPEN_PEER, fail_on_one_rank),
        "peer is missing": mock.patch.object(WanBenchModel, OPEN_PEER, miss),
        "peer is wrong": mock.patch.object(WanBenchModel, OPEN_PEER, wrong),
        "tokens are lost": mock.patch.object(SequenceShard, "join", lambda self, x: join(self, x).flip(1)),
        "branches are swapped": mock.patch.object(WanBenchModel, "predict", swapped),
        "one rank has NaN": mock.patch.object(WanBenchModel, "predict", silent),
        "frames are remembered": contextlib.nullcontext(),
        "another video is remembered": mock.patch.object(WanBenchModel, "draw_past", of_another),
        "xfuser on a CPU": mock.patch.object(Xfuser, "load", load_xfuser),
        "rows are shifted": mock.patch.object(
            GroupRows, "gather", lambda self, x, dim: gather(self, x, dim).roll(1, dim)
        ),
    }


def _with(patch, rank, case):
    with patch:
        return run_case(rank, case)
