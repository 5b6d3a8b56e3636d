"""Bytes of the fullest GPU."""

from dataclasses import replace

import pytest

from reelray.proto.patching import Patching
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.proto.storage import Storage
from reelray.scheduler.plan.memory_use import decode_alone_bytes, decode_bytes, predict_memory
from reelray.scheduler.plan.residency import RESIDENCIES
from reelray.scheduler.plan.step_time import predict_layer
from tests.support.planning import GIB, make_job, make_setting, make_stream, table

OFFLOADED = Residency(blocks=Blocks.OFFLOADED)
SHARDED = Residency(blocks=Blocks.SHARDED)
RELEASED = Residency(encoder=Encoder.RELEASED)


def use(job, layout="", residency=None, *, decode_ranks=0, link="nvlink"):
    return predict_memory(make_setting(job, layout, residency, link), decode_ranks=decode_ranks)


def test_weights_of_the_large_model():
    job = make_job()
    assert use(job).blocks == 2 * job.facts.parameters
    assert use(job, "pipe=4").blocks == pytest.approx(2 * job.facts.parameters / 4)
    block = 2 * job.facts.parameters / 40
    assert use(job, residency=OFFLOADED).blocks == pytest.approx(2 * block)
    assert use(job, "ulysses=4", SHARDED).blocks == pytest.approx(12 * block)
    assert use(job, "cfg=2,ulysses=2", SHARDED).blocks == pytest.approx(12 * block)
    assert use(job).encoder == 2 * 5_680_910_336


def test_a_released_encoder_is_counted_while_it_is_there():
    job = make_job("1.3b", "480p")
    stays, leaves = use(job), use(job, residency=RELEASED)
    assert stays.stages["text"] - leaves.stages["text"] == pytest.approx(22 / 24 * stays.encoder)
    assert stays.stages["denoise"] - leaves.stages["denoise"] == stays.encoder
    assert stays.stages["decode"] - leaves.stages["decode"] == stays.encoder


def test_resident_blocks_need_no_room_for_a_released_encoder():
    assert (
        use(make_job("14b", "480p"), residency=RELEASED).peak_bytes < 37 * GIB < use(make_job("14b", "480p")).peak_bytes
    )


def test_streams_keep_what_later_chunks_attend():
    # 12 latent frames of 1.3B at 480p are 3.45 GB of keys and values, once in pages and once in the workspace, beside
    # which the 3 of the window wait to be remembered; the text adds 94 MB.
    assert use(make_stream()).memory == pytest.approx((2 + 3 / 12) * 3.45e9 + 94e6, rel=0.01)
    assert use(make_stream(), "ulysses=2").memory == pytest.approx((1 + 3 / 24) * 3.45e9 + 94e6, rel=0.01)
    assert use(make_job("1.3b", "480p")).memory == pytest.approx(2 * 94e6, rel=0.01)
    assert use(make_job("1.3b", "480p"), "cfg=2").memory == pytest.approx(94e6, rel=0.01)


def test_pages_of_eight_bits_take_half_and_their_scales():
    """3.45 GB in pages become 132 bytes of 256 of each token and head; the workspace stays."""
    exact = use(make_stream()).memory
    for storage in (Storage.FP8, Storage.INT8):
        stream = make_stream()
        stream = replace(stream, memory=replace(stream.memory, storage=storage))
        assert exact - use(stream).memory == pytest.approx(3.45e9 * (1 - 132 / 256), rel=0.01)


def test_decode_elsewhere_is_not_counted_here():
    job = make_job()
    assert use(job).decoder > 10 * GIB
    assert use(job, decode_ranks=1).decoder == 0
    assert use(job, "ulysses=4").decoder < 0.3 * use(job).decoder


@pytest.mark.parametrize("residency", RESIDENCIES, ids=str)
@pytest.mark.parametrize("axis", ["ulysses", "ring", "pipe"])
def test_more_ranks_hold_less_each(axis, residency):
    degrees = [2, 3, 4, 6, 8]
    tensors = [use(make_job(), f"{axis}={n}", residency) for n in degrees]
    held = [m.blocks + m.activations + m.memory + m.decoder + m.buffers for m in tensors]
    assert held == sorted(held, reverse=True)


def test_more_frames_and_larger_pictures_need_more():
    uses = [use(make_job("14b", "480p", frames=f)) for f in (5, 41, 81, 161)]
    by_frames = [found.peak_bytes - found.graphs for found in uses]  # only small forwards are recorded
    assert by_frames == sorted(by_frames)
    assert use(make_job("14b", "480p")).peak_bytes < use(make_job("14b", "720p")).peak_bytes


def test_small_forwards_keep_what_they_need_at_once():
    # 4680 tokens of width 1536 and 8960 behind the feed-forward's first half, in two bytes.
    stream, whole = make_stream(), make_job("1.3b", "480p")
    factor = table().graph_pool_factor
    assert use(stream).activations == 4680 * 2 * (1536 + 8960) * 2
    assert use(stream).graphs == pytest.approx(factor * use(stream).activations)
    assert use(stream, "ulysses=2").graphs == pytest.approx(use(stream).graphs / 2)
    assert use(whole).graphs == 0  # 32760 tokens run kernel by kernel, half of them are recorded
    assert use(whole, "ulysses=2").graphs == pytest.approx(factor * use(whole, "ulysses=2").activations)
    assert use(stream, residency=OFFLOADED).graphs == use(stream, "pipe=2").graphs == 0
    for stage in ("denoise", "decode"):
        other = replace(use(stream), graphs=0.0)
        assert use(stream).stages[stage] - other.stages[stage] == pytest.approx(use(stream).graphs)
    doubled = replace(table(), graph_pool_factor=2 * factor)
    assert predict_memory(make_setting(stream, table_=doubled), decode_ranks=0).graphs == pytest.approx(
        2 * use(stream).graphs
    )


def test_the_next_size_of_window_is_recorded_into_the_same_pool():
    chunks = make_stream(frames=73)  # 19 latent frames in chunks of three: the last has one
    assert {window.tokens for window in chunks.windows} == {4680, 1560}
    assert use(chunks).graphs == use(make_stream()).graphs


def test_patches_keep_the_keys_of_the_step_before():
    job = make_job()
    patched = replace(make_setting(job, "pipe=2"), patching=Patching(patches=4))
    memory = predict_memory(patched, decode_ranks=0)
    assert memory.stale == 2 * 2 * 20 * 75600 * 5120 * 2  # keys, values; branches; layers; tokens; width; bytes
    assert memory.stages["denoise"] - use(job, "pipe=2").stages["denoise"] == memory.stale
    assert memory.stages["decode"] == use(job, "pipe=2").stages["decode"]
    one = replace(make_setting(job, "cfg=2,pipe=2"), patching=Patching(patches=4))
    assert predict_memory(one, decode_ranks=0).stale == memory.stale / 2


def test_ranks_that_only_decode_hold_the_decoder_alone():
    job = make_job()
    decoder = job.sizes.decoder_parameters * job.value_bytes
    beside = predict_memory(make_setting(job, "ulysses=2"), decode_ranks=1)
    assert beside.decoder == 0
    assert predict_memory(make_setting(make_job("i2v-14b-480p"), "ulysses=2"), decode_ranks=1).decoder == decoder
    alone = decode_alone_bytes(make_setting(job, "ulysses=2"), 1)
    assert alone == table().context_bytes + decode_bytes(make_setting(job), 1)
    assert decoder + table().context_bytes < alone < beside.blocks


def test_a_ring_holds_what_passes():
    assert use(make_job(), "ring=2").buffers > 0
    assert use(make_job(), "ulysses=2").buffers == 0


def test_memory_for_exchanged_heads_stays_while_pictures_are_decoded():
    job = make_job()
    through, without = use(job, "ulysses=4"), use(job, "ulysses=4", link="pcie")
    assert through.rooms == 4 * 75600 / 4 * 5120 * 2
    assert without.rooms == use(job).rooms == use(job, "ring=4").rooms == 0
    more = {stage: size - without.stages[stage] for stage, size in through.stages.items()}
    assert more == {"text": through.rooms, "denoise": 0, "decode": through.rooms}


def test_a_ring_passes_the_window_and_keeps_what_is_remembered():
    alone, stream = make_stream(memory=None), make_stream(memory=9)
    assert use(stream, "ring=2").buffers == use(alone, "ring=2").buffers > 0
    assert use(stream, "ring=2").memory == use(stream).memory > use(stream, "ulysses=2").memory
    settings = [make_setting(job, "ring=2") for job in (alone, stream)]
    windows = (alone.windows[-1], stream.windows[-1])
    assert windows[1].attended == 3 * windows[0].attended
    sent = [predict_layer(*pair).sent_bytes for pair in zip(settings, windows, strict=True)]
    assert sent[0] == sent[1] > 0
