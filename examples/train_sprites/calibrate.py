"""How far the detector can be trusted: its verdicts on true, distorted, faulty and wrongly captioned clips, as JSON."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.train_sprites.draw import draw_batch, to_uint8
from examples.train_sprites.faults import DISTORTIONS, FAULTS
from examples.train_sprites.scenes import SceneBatch, sample_scenes
from reelray.quality.sprites.detector import Sight, Verdict, detect, judge
from reelray.quality.sprites.scene import Scene
from reelray.quality.sprites.vocabulary import CLIP_FRAMES

CHUNK = 4
KINDS = ("true", *DISTORTIONS, *FAULTS)
REVERSIBLE = frozenset({"circle", "bounce", "spin"})


def calibrate(clips: int, seed: int, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """Judge random clips of the training split.

    Args:
        clips: Number of clips of each kind.
        seed: Chooses scenes and distortions.
        kinds: "true", which is always needed, and names of distortions and faults.

    Returns:
        Shares of right verdicts by kind of clip and attribute, of faults found, and processor seconds a clip.

    Raises:
        ValueError: "true" is not among the kinds.
    """
    generator = torch.Generator().manual_seed(seed)
    if "true" not in kinds:
        raise ValueError(f"kinds are {', '.join(kinds)}; true must be among them")
    sights: dict[str, list[Sight]] = {name: [] for name in kinds}
    scenes: list[Scene] = []
    spent_s = 0.0
    for start in range(0, clips, CHUNK):
        batch = sample_scenes(min(CHUNK, clips - start), generator)
        scenes += [batch.describe(index) for index in range(len(batch))]
        for name, video in _make_kinds(batch, generator, kinds):
            began = time.process_time()
            sights[name] += [detect(frames) for frames in to_uint8(video).numpy()]
            spent_s += time.process_time() - began
    verdicts = {name: list(map(judge, seen, scenes)) for name, seen in sights.items()}
    shuffled = scenes[1:] + scenes[:1]
    by_count = {
        f"true_{count}": [v for v, scene in zip(verdicts["true"], scenes, strict=True) if len(scene.sprites) == count]
        for count in (1, 2)
    }
    return {
        "clips": clips,
        "seed": seed,
        "right": {
            **{name: _shares(verdicts[name]) for name in kinds if name not in FAULTS},
            **{name: _shares(chosen) for name, chosen in by_count.items()},
            "shuffled_captions": _shares(list(map(judge, sights["true"], shuffled))),
        },
        "faults_found": {name: _found(verdicts[name], scenes, name) for name in kinds if name in FAULTS},
        "processor_s_per_clip": round(spent_s / (clips * len(sights)), 4),
    }


def _make_kinds(batch: SceneBatch, generator: torch.Generator, kinds: Sequence[str]) -> Iterable[tuple[str, Tensor]]:
    video = draw_batch(batch, range(CLIP_FRAMES))
    for kind in kinds:
        if kind in DISTORTIONS:
            yield kind, DISTORTIONS[kind](video, generator).clamp(-1, 1)
        elif kind in FAULTS:
            yield kind, FAULTS[kind][0](video, batch)
        else:
            yield kind, video


def _shares(verdicts: list[Verdict]) -> dict[str, float]:
    """Share of right verdicts by attribute, and of clips without any fault."""
    if not verdicts:
        return {}
    shares = {
        name: sum(verdict.to_dict()[name] for verdict in verdicts) / len(verdicts) for name in verdicts[0].to_dict()
    }
    shares["all"] = sum(verdict.is_all_right for verdict in verdicts) / len(verdicts)
    return {name: round(share, 4) for name, share in shares.items()}


def _found(verdicts: list[Verdict], scenes: list[Scene], fault: str) -> float:
    """Share of faulty clips where the spoilt attribute is judged wrong."""
    attribute = FAULTS[fault][1]
    wrong = [
        not verdict.to_dict()[attribute]
        for verdict, scene in zip(verdicts, scenes, strict=True)
        if fault != "reverse" or any(sprite.motion not in REVERSIBLE for sprite in scene.sprites)
    ]
    return round(sum(wrong) / max(len(wrong), 1), 4)


def main() -> None:
    """Calibrate, and write JSON to a file or to the standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = json.dumps(calibrate(args.clips, args.seed, args.kinds), indent=2) + "\n"
    if args.output:
        args.output.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
