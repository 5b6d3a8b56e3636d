"""Streams whose pictures a tiny decoder makes: put down, taken up, and told apart from those of the full one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reelray.proto.decoder import Decoder
from reelray.proto.errors import CheckpointError, SnapshotError, UnsupportedError
from reelray.proto.request import RequestId
from reelray.proto.snapshot import SnapshotKind
from reelray.workers.engine.footprint import ShapeClass
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.vae import DecodeState
from tests.support.live_cases import Drive, live_request
from tests.support.tiny_taehv import decode_whole, draw_state
from tests.support.watched_model import Watched


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two decoders of different weights."""
    folder = tmp_path_factory.mktemp("previews")
    for seed in (0, 1):
        torch.save(draw_state(seed=seed), folder / f"{seed}.pth")
    return [folder / f"{seed}.pth" for seed in (0, 1)]


@pytest.fixture(scope="module")
def model(tiny_t2v, files):
    return open_checkpoint(tiny_t2v, device="cpu", preview=files[0])


def preview_request(name="a", decoder=Decoder.TAEHV_STREAM):
    request = live_request("keep", name, latent_frames=6)
    return replace(request, recipe=replace(request.recipe, decoder=decoder))


def as_frames(video):
    return np.frombuffer(video, np.uint8).reshape(-1, 32, 48, 3).astype(int)


def play(model, request, **more):
    drive = Drive(model)
    drive.submit(request, **more)
    drive.run()
    return drive


def put_down_at(model, request, plans, kind=SnapshotKind.EXACT):
    drive = Drive(model)
    drive.submit(request)
    for _ in range(plans):
        drive.step()
    drive.core.snapshot(RequestId("a"), kind)
    while not drive.snapshots:
        drive.step()
    return drive.snapshots.pop()


def test_a_stream_shows_what_the_layers_of_the_file_make_of_its_latents(model):
    watched = Watched(model)
    frames = as_frames(play(watched, preview_request()).videos["a"])
    latents_CTHW = torch.cat(watched.latents, dim=2)[0]
    wanted = (decode_whole(draw_state(), latents_CTHW) * 255).round().permute(0, 2, 3, 1).numpy()
    assert frames.shape == wanted.shape == (21, 32, 48, 3)
    assert abs(frames - wanted).max() <= 1
    assert (frames != wanted).mean() < 1e-3
    full = as_frames(play(model, preview_request(decoder=Decoder.WAN_EXACT_STREAM)).videos["a"])
    assert abs(full - frames).mean() > 5


@pytest.mark.parametrize("kind", [SnapshotKind.EXACT, SnapshotKind.REPLAY])
def test_it_goes_on_bit_by_bit_from_a_snapshot(model, kind):
    whole = play(model, preview_request()).videos["a"]
    snapshot = put_down_at(model, preview_request(), 5, kind)
    assert 0 < snapshot.frame < 21
    again = play(model, replace(snapshot.request, request_id=RequestId("b")), snapshot=snapshot)
    assert again.videos["b"] == whole[snapshot.frame * 48 * 32 * 3 :]


def test_another_decoder_does_not_go_on_from_it(model, tiny_t2v, files):
    snapshot = put_down_at(model, preview_request(), 5)
    with pytest.raises(SnapshotError, match="decoded by taehv_stream; wan_exact_stream cannot go on"):
        play(model, preview_request(decoder=Decoder.WAN_EXACT_STREAM), snapshot=snapshot)
    other = open_checkpoint(tiny_t2v, device="cpu", preview=files[1])
    drive = play(other, replace(snapshot.request, request_id=RequestId("b")), snapshot=snapshot)
    assert "tiny decoder of other weights" in drive.failures["b"].message
    full = DecodeState().to_bytes()
    with pytest.raises(SnapshotError, match="is the state of decoder decode; taehv_stream cannot go on"):
        model.unpack_decode_state(full, decoder=Decoder.TAEHV_STREAM, latent_rows=4)


def test_a_state_moves_to_other_ranks_whole(model):
    latents = torch.randn(1, 16, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    state = model.new_decode_state(Decoder.TAEHV_STREAM)
    whole = model.decode(latents, state)
    moved = model.new_decode_state(Decoder.TAEHV_STREAM)
    parts = [model.decode(latents[:, :, :1], moved)]
    taken = model.take_apart(moved)
    assert not taken.splits
    parts.append(model.decode(latents[:, :, 1:], model.put_together(taken)))
    assert torch.equal(torch.cat(parts), whole)


def test_a_model_without_one_says_so(tiny_t2v):
    model = open_checkpoint(tiny_t2v, device="cpu")
    with pytest.raises(UnsupportedError, match="decoder is taehv_stream; the model here has wan_exact_stream"):
        play(model, preview_request())
    with pytest.raises(UnsupportedError, match="without a preview decoder"):
        model.new_decode_state(Decoder.TAEHV_STREAM)


def test_pages_measured_for_full_pictures_are_enough_for_previews(model):
    full, preview = (ShapeClass.of(preview_request(decoder=one), model.facts) for one in Decoder)
    assert preview.needs_no_more_than(full)
    assert not full.needs_no_more_than(preview)


def test_a_vae_of_other_sizes_takes_none(tiny_t2v, files, monkeypatch):
    monkeypatch.setattr("reelray.workers.models.wan.checkpoint.SPATIAL_RATIO", 16)
    with pytest.raises(CheckpointError, match="4 frames of 16x16 pixels of a latent, and this model's VAE 4 of 8x8"):
        open_checkpoint(tiny_t2v, device="cpu", preview=files[0])
