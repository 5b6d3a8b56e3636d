"""Dry runs that measure what windows and decoders of a class of streams take."""

import pytest

from reelray.workers.engine.footprint import DryRun, Footprint, ShapeClass
from reelray.workers.models.registry import open_checkpoint

MB = 1_000_000
SMALL = ShapeClass(width=48, height=32, window=2, piece=2)


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


class Meter:
    """Counts what forwards and decodes of a `Heavy` model would take."""

    def __init__(self):
        self.now, self.most = 1000, 1_000_000  # while the checkpoint was loaded
        self.settled = 0

    def restart(self):
        self.most = self.now

    def used(self):
        return self.now

    def peak(self):
        return self.most

    def settle(self):
        self.settled += 1

    def take(self, transient, kept=0):
        self.most = max(self.most, self.now + transient)
        self.now += kept


class Heavy:
    """The tiny model: a forward takes 70, the second one keeps 30 of 50; decodes take 40, and keep 5 and 2."""

    def __init__(self, model, meter):
        self._model, self._meter, self.calls = model, meter, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def denoise(self, latents, *inputs, **options):
        self._meter.take(*((50, 30) if self.calls else (70, 0)))
        self.calls.append(("denoise", tuple(latents.shape)))
        return self._model.denoise(latents, *inputs, **options)

    def denoise_rows(self, rows, **options):
        self._meter.take(80 * len(rows))
        self.calls.append(("rows", len(rows), tuple(rows[0].latents_1CTHW.shape)))
        return self._model.denoise_rows(rows, **options)

    def decode(self, latents, state, **options):
        self._meter.take(40 + state.latent_frames, 5 if not state.latent_frames else 2)
        self.calls.append(("decode", tuple(latents.shape)))
        return self._model.decode(latents, state, **options)


@pytest.mark.parametrize("decodes", [True, False])
def test_a_dry_run_finds_the_peak_and_what_a_decoder_keeps(model, decodes):
    meter, told = Meter(), []
    heavy = Heavy(model, meter)
    shape = ShapeClass(width=48, height=32, window=3, piece=2)
    found = DryRun(heavy, meter, lambda: told.append(1)).measure(shape, decodes=decodes)
    assert found == Footprint(peak_bytes=70, stream_bytes=7 if decodes else 0)
    window, piece = ("denoise", (1, 16, 3, 4, 6)), ("decode", (1, 16, 2, 4, 6))
    assert heavy.calls == [window, window, *([piece, piece] if decodes else [])]
    assert len(told) == len(heavy.calls)
    assert meter.settled


def test_a_dry_run_of_windows_that_share_forwards_runs_as_many(model):
    heavy = Heavy(model, Meter())
    found = DryRun(heavy, heavy._meter).measure(
        ShapeClass(width=48, height=32, window=3, piece=2, rows=4), decodes=False
    )
    assert found.peak_bytes == 320
    assert heavy.calls[2:] == [("rows", 4, (1, 16, 3, 4, 6))] * 2


def test_a_decode_may_be_the_peak(model):
    meter = Meter()
    heavy = Heavy(model, meter)
    heavy.decode = lambda _latents, _state: meter.take(500, 5)
    assert DryRun(heavy, meter).measure(SMALL, decodes=True) == Footprint(peak_bytes=495, stream_bytes=10)


def test_a_dry_run_of_a_model_that_goes_on_from_an_image_gives_it_one(tiny_i2v):
    meter = Meter()
    heavy = Heavy(open_checkpoint(tiny_i2v, device="cpu"), meter)
    found = DryRun(heavy, meter).measure(SMALL, decodes=True)
    assert found.peak_bytes == 70
