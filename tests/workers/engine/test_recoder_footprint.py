"""What a rank that codes pictures anew is measured by: whole pictures, whoever makes those that clients see."""

import pytest

from reelray.workers.engine.footprint import DryRun, ShapeClass
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.vae import WanVae


class NoMeter:
    """Reads nothing: what counts here is what runs."""

    def restart(self):
        """Nothing to forget."""

    def settle(self):
        """Nothing to give back."""

    def used(self):
        return 0

    def peak(self):
        return 0


class Shared:
    """Pictures that ranks share."""

    def fits(self, _latent_rows):
        return True

    def decode(self, *_):
        pytest.fail("a recoder decodes whole pictures")


@pytest.mark.parametrize(("recodes", "decoded"), [(True, [3, 3]), (False, [])])
def test_a_dry_run_decodes_whole_chunks_as_the_recoder_does(tiny_t2v, monkeypatch, recodes, decoded):
    model, pieces, encoded = open_checkpoint(tiny_t2v, device="cpu"), [], []
    model.use_picture_sharing(Shared())
    decode, encode = WanVae.decode, WanVae.encode
    monkeypatch.setattr(
        WanVae, "decode", lambda vae, raw, state: pieces.append(raw.shape[2]) or decode(vae, raw, state)
    )
    monkeypatch.setattr(
        WanVae, "encode", lambda vae, picture, state: encoded.append(picture.shape[2]) or encode(vae, picture, state)
    )
    shape = ShapeClass(width=48, height=32, window=3, piece=1, recodes=recodes)
    DryRun(model, NoMeter()).measure(shape, decodes=False)
    assert (pieces, encoded) == (decoded, [1] * recodes)
