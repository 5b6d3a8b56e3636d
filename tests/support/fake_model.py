"""A video model in closed form: every prediction and every frame can be recomputed by hand.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, F pixel frames.
"""

import os
import pickle
import threading
import time

import torch

from reelray.proto.residency import Residency
from reelray.workers.models.sharding import DecodeParts
from tests.support.requests import make_facts


class FakeDecodeState:
    """Causal memory of one video: the latent frame before."""

    def __init__(self):
        self.previous = None
        self.decoded = 0


class FakeModel:
    """Linear in latents, text, time and position.

    A prompt may carry an order: ``boom`` raises a RuntimeError in the transformer, ``oom`` runs out of memory there,
    ``bad text`` fails in the text encoder, ``bad decode`` in the decoder, ``exit`` ends the process.

    Args:
        step_s: Seconds each evaluation takes.
    """

    def __init__(self, *, step_s=0.0):
        self.facts = make_facts()
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.digest = "fa4e"
        self.residency = Residency()
        self.step_s = step_s
        self.calls = []
        self.decoded_latent_frames = 0
        self.gate = threading.Event()
        self.gate.set()

    def __reduce__(self):
        return (_rebuild, (self.step_s,))

    def encode_text(self, prompts):
        if "bad text" in prompts:
            raise ValueError("cannot read it\nsecond line")
        return [(prompt, torch.tensor(sum(map(ord, prompt)) % 17 / 17)) for prompt in prompts]

    def encode_image(self, image_HWC, *, frames):
        return image_HWC.float().mean() / 255 / frames

    def denoise(self, latents_BCTHW, timestep_BT, text, *, positions_BT, image=None, view=None):
        assert view is None
        self.gate.wait()
        time.sleep(self.step_s)
        prompt, value = text[0]
        self.calls.append(prompt)
        if prompt == "boom":
            raise RuntimeError("the transformer broke")
        if prompt == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if prompt == "exit":
            os._exit(9)
        per_frame_BT = timestep_BT / 1000 + 0.01 * positions_BT
        picture = 0.0 if image is None else image[0]
        return 0.5 * latents_BCTHW - value - picture + per_frame_BT[:, None, :, None, None]

    def use_stages(self, stages, layers=None):
        self.stages = stages, layers

    def use_sharding(self, sharding):
        self.sharding = sharding

    def work_alone(self):
        self.stages = self.sharding = None

    def settle_decode(self, latents, state):
        pass

    def use_landing(self, room):
        pass

    def new_decode_state(self, decoder=None):  # noqa: ARG002
        return FakeDecodeState()

    def use_picture_sharing(self, sharing):  # noqa: ARG002
        return False

    def pack_decode_state(self, state, *, latent_rows):  # noqa: ARG002
        return pickle.dumps((state.previous, state.decoded))

    def unpack_decode_state(self, data, *, decoder, latent_rows):  # noqa: ARG002
        state = FakeDecodeState()
        state.previous, state.decoded = pickle.loads(data)
        return state

    def take_apart(self, state):
        slots = () if state.previous is None else (state.previous,)
        return DecodeParts(facts=state.decoded, slots=slots, splits=False)

    def put_together(self, parts):
        state = FakeDecodeState()
        state.previous, state.decoded = (*parts.slots, None)[0], parts.facts
        return state

    def decode(self, latents_1CTHW, state, *, waits=True):  # noqa: ARG002
        frames = []
        for latent_CHW in latents_1CTHW[0].unbind(1):
            shade_HW = latent_CHW.mean(0) if state.previous is None else (latent_CHW - 0.5 * state.previous).mean(0)
            state.previous = latent_CHW
            picture_HW = (shade_HW * 40 + 128).clamp(0, 255).repeat_interleave(8, 0).repeat_interleave(8, 1)
            count = 1 if state.decoded == 0 else 4
            state.decoded += 1
            frames += [(picture_HW + i).clamp(0, 255) for i in range(count)]
        self.decoded_latent_frames += latents_1CTHW.shape[2]
        return torch.stack(frames).to(torch.uint8).unsqueeze(-1).repeat(1, 1, 1, 3)


def _rebuild(step_s):
    return FakeModel(step_s=step_s)
