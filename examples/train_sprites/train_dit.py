"""Train the sprites transformer together with its small text encoder on latents of the trained VAE.

    python -m examples.train_sprites.train_dit --vae runs/vae --out runs/dit

Latents of a pool of clips are made first and renewed while training goes on. One caption in ten is dropped, so that
classifier-free guidance has an unconditional branch (the empty prompt, as pipelines send it).
"""

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.train_sprites.captions import write_caption
from examples.train_sprites.draw import draw_batch
from examples.train_sprites.scenes import Split, sample_scenes
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from examples.train_sprites.train_vae import FRAMES, load_vae
from examples.train_sprites.training import Optimisation, Trainer
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.text_context import padding_biases
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.vae import WanVae

TEXT_TOKENS, WORD_SLOTS, WORDINGS = 512, 28, 4
SHIFT = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Size of one run.

    Args:
        steps: Optimiser steps.
        batch: Clips per step.
        pool: Clips whose latents are kept.
        renew_every: Steps between renewals of 16 clips of the pool.
        caption_dropout: Share of captions replaced by the empty prompt.
    """

    steps: int = 14000
    batch: int = 48
    pool: int = 16384
    renew_every: int = 8
    caption_dropout: float = 0.1


def sprites_transformer_config() -> WanConfig:
    """Sizes of the shipped transformer."""
    return WanConfig(num_attention_heads=4, attention_head_dim=64, text_dim=128, ffn_dim=1024, num_layers=8)


def build_text_encoder(vocabulary: int) -> nn.Module:
    """The shipped text encoder, freshly initialised: UMT5 of width 128."""
    from transformers import UMT5Config, UMT5EncoderModel  # noqa: PLC0415  slow to import

    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    encoder: nn.Module = UMT5EncoderModel(config)
    return encoder


class SpritesModel(nn.Module):
    """Text encoder and transformer, trained as one."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(vocabulary)
        self.transformer = WanTransformer(sprites_transformer_config())
        biases = padding_biases(TEXT_TOKENS - WORD_SLOTS, torch.bfloat16)
        self.register_buffer("bias", torch.tensor([0.0] * WORD_SLOTS + biases), persistent=False)

    def embed(self, ids_BK: Tensor) -> Tensor:
        """Text embeddings [B, WORD_SLOTS, C], zero behind the last token."""
        mask_BK = (ids_BK != 0).long()
        hidden: Tensor = self.text_encoder(input_ids=ids_BK, attention_mask=mask_BK).last_hidden_state
        return hidden * mask_BK[..., None]

    def forward(self, embeddings_BKC: Tensor, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict the flow; the zero slots up to 512 are folded into a few biased ones."""
        bias: Tensor = self.get_buffer("bias")
        padded = F.pad(embeddings_BKC, (0, 0, 0, len(bias) - WORD_SLOTS))
        context = replace(self.transformer.prepare_text(padded), bias=bias.expand(len(padded), -1))
        prediction: Tensor = self.transformer(latents_BCTHW, timestep_B, context)
        return prediction.float()


class Pool:
    """Latents and tokenised captions of clips.

    Args:
        vae: Makes latents.
        tokenizer: Makes ids.
        split: Which combinations of words.
        size: Clips kept.
        seed: Seed of scenes and wordings.
    """

    def __init__(self, vae: WanVae, tokenizer: Any, *, split: Split, size: int, seed: int) -> None:
        self.vae, self.tokenizer, self.split, self.device = vae, tokenizer, split, vae.latents_mean.device
        device = self.device
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self.cursor = 0
        self.latents = torch.empty(size, 16, (FRAMES - 1) // 4 + 1, 16, 24, dtype=torch.float16, device=device)
        self.ids = torch.zeros(size, WORDINGS, WORD_SLOTS, dtype=torch.long, device=device)
        for _ in range(size // 16):
            self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """Replace the 16 oldest clips."""
        scenes = sample_scenes(16, self.generator, split=self.split)
        video = draw_batch(scenes, range(FRAMES), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            mean = self.vae.encode_whole(video)[0]
        texts = [write_caption(scenes.describe(i), self.rng) for i in range(16) for _ in range(WORDINGS)]
        ids = self.tokenizer(texts, padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
        place = slice(self.cursor, self.cursor + 16)
        self.latents[place] = self.vae.normalise(mean.float()).half()
        self.ids[place] = ids.view(16, WORDINGS, WORD_SLOTS).to(self.device)
        self.cursor = (self.cursor + 16) % len(self.latents)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Random clips: latents [count, 16, T, H, W] float32 and ids [count, WORD_SLOTS]."""
        index = torch.randint(len(self.latents), (count,), device=self.device)
        wording = torch.randint(WORDINGS, (count,), device=self.device)
        return self.latents[index].float(), self.ids[index, wording]


def flow_loss(model: nn.Module, embeddings_BKC: Tensor, latents: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """Squared error of the predicted flow, noise minus data."""
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * noise
    return F.mse_loss(model(embeddings_BKC, noisy, 1000 * sigma_B), noise - latents)


def draw_sigmas(count: int, device: torch.device) -> Tensor:
    """Logit-normal levels, shifted towards noise as the sampler's are."""
    uniform = torch.sigmoid(torch.randn(count, device=device))
    return SHIFT * uniform / (1 + (SHIFT - 1) * uniform)


@torch.no_grad()
def measure(model: SpritesModel, held_out: Pool) -> dict[str, float]:
    """Loss on held-out clips at fixed noise levels."""
    torch.manual_seed(1)
    losses = {}
    for sigma in (0.3, 0.6, 0.9):
        latents, ids = held_out.latents[:64].float(), held_out.ids[:64, 0]
        with torch.autocast(latents.device.type, torch.bfloat16):
            level = torch.full((64,), sigma, device=latents.device)
            loss = flow_loss(model, model.embed(ids), latents, torch.randn_like(latents), level)
        losses[f"held_out_{sigma}"] = round(float(loss), 5)
    return losses


def save_half(trainer: Trainer[SpritesModel], out: Path) -> None:
    """Write the averaged weights in half precision: small enough to carry elsewhere while training goes on."""
    halves = {name: value.half() for name, value in trainer.average.state_dict().items()}
    torch.save({"step": trainer.step, "average": halves}, out / "half.pt")


def train(vae_folder: Path, out: Path, *, seed: int, settings: Settings, compile_model: bool) -> None:
    """Run the training and write `model.pt`, the vocabulary and the log to `out`."""
    torch.manual_seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = load_vae(vae_folder, device)
    words = list_words()
    tokenizer = build_tokenizer(words)
    model = SpritesModel(len(tokenizer)).to(device)
    trainer = Trainer(model, Optimisation(learning_rate=1e-3, ema=0.9995, warmup_steps=300), settings.steps, out)
    pool = Pool(vae, tokenizer, split="train", size=settings.pool, seed=seed)
    held_out = Pool(vae, tokenizer, split="held_out", size=64, seed=seed + 1)
    empty = tokenizer("", padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids.to(device)
    trainer.log(event="pool ready", clips=settings.pool, words=len(words))
    loss_of = torch.compile(flow_loss, dynamic=False) if compile_model else flow_loss
    while trainer.step < settings.steps:
        latents, ids = pool.sample(settings.batch)
        dropped = torch.rand(settings.batch, 1, device=device) < settings.caption_dropout
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = model.embed(torch.where(dropped, empty, ids))
            loss = loss_of(model, embeddings, latents, torch.randn_like(latents), draw_sigmas(len(latents), device))
        norm = trainer.update(loss)
        if trainer.step % settings.renew_every == 0:
            pool.renew()
        if trainer.step % 200 == 0:
            trainer.log(loss=round(loss.item(), 5), norm=round(norm.item(), 3))
        if trainer.step % 2000 == 0 or trainer.step == settings.steps:
            trainer.log(**measure(trainer.average, held_out))
            trainer.save()
            save_half(trainer, out)
    torch.save(trainer.average.state_dict(), out / "model.pt")
    (out / "words.json").write_text(json.dumps(words))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/dit"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Settings().steps)
    parser.add_argument("--pool", type=int, default=Settings().pool)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    settings = Settings(steps=options.steps, pool=options.pool)
    train(options.vae, options.out, seed=options.seed, settings=settings, compile_model=not options.no_compile)


if __name__ == "__main__":
    main()
