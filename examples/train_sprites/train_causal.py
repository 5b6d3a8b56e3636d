"""Train the sprites transformer to stream: chunk by chunk over what it remembers, and in few steps.

    python -m examples.train_sprites.train_causal --vae runs/vae --out runs/causal
    python -m torch.distributed.run --standalone --nproc_per_node 2 -m examples.train_sprites.train_causal ...

Two stages, each with a state of its own that `export_causal` reads: `adapt` learns chunks over remembered chunks from
drawn clips, beginning with the whole-clip model; `few` learns its own teacher's answers on its own path in four steps
or fewer. Text encoder and VAE stay as they are.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from examples.train_sprites.causal_session import CausalSession
from examples.train_sprites.causal_settings import CausalSettings, Stage
from examples.train_sprites.export import load_average, read_text
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.sprites_model import SpritesModel
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from reelray.workers.models.wan.weights import load_transformer

ADAPT = Stage(name="adapt", budget_s=190.0, learning_rate=2e-3, matrix_rate=6e-3, warmup_steps=100)
FEW = Stage(name="few", budget_s=120.0, learning_rate=4e-4, matrix_rate=1.5e-3, warmup_steps=30)
SAVE_EVERY_S, BETWEEN_S = 60.0, 60.0
"""The second: what verdicts and compilation take between the stages."""
WARM_STEPS, SYNC_EVERY = 2, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one process does, and until when.

    Args:
        adapt: The first stage; None leaves it out.
        few: The second one; None leaves it out.
        stop_after: Wall-clock seconds since the start of the process after which training ends in any case.
        started: `time.monotonic()` then.
    """

    adapt: Stage | None
    few: Stage | None
    stop_after: float
    started: float

    @property
    def adapt_until(self) -> float:
        """Wall-clock seconds at which the first stage makes way for the second."""
        return self.stop_after - (self.few.budget_s + BETWEEN_S if self.few and self.few.steps is None else 0.0)

    def is_over(self, until: float) -> bool:
        """Whether so many seconds have passed."""
        return time.monotonic() - self.started > until


def begin_model(folder: Path) -> SpritesModel:
    """The model of an exported checkpoint, or of the state of a stage.

    Raises:
        ValueError: There is neither.
        WeightsError: The checkpoint lacks a part.
    """
    if (folder / "state.json").exists():
        return load_average(folder)[0]
    model = SpritesModel.shipped(len(build_tokenizer(list_words())))
    transformer = load_transformer(folder / "transformer", "cpu", torch.float32)
    with torch.no_grad():
        for own, other in zip(model.transformer.parameters(), transformer.parameters(), strict=True):
            own.copy_(other)
    model.text_encoder.load_state_dict(read_text(folder))
    return model


def train(session: CausalSession, plan: Plan) -> None:
    """Run the stages of a plan.

    Args:
        session: Model and data.
        plan: What to do, and until when.
    """
    if plan.adapt is not None:
        session.open_stage(plan.adapt)
        run_stage(session, session.follow_truth, plan, plan.adapt_until)
        session.close_stage()
    if plan.few is not None:
        session.open_teacher()
        session.open_stage(plan.few)
        run_stage(session, session.follow_teacher, plan, plan.stop_after)
        session.close_stage()


def run_stage(session: CausalSession, step: Callable[[], tuple[Tensor, Tensor]], plan: Plan, until: float) -> None:
    """Take steps until the stage's budget or the time is spent; the first ones, which compile, are not counted."""
    clock, trainer, saved = session.clock, session.trainer, time.monotonic()
    for _ in range(WARM_STEPS):
        step()
    clock.run()
    over = False
    while not over and clock.progress < 1:
        error_BJ, norm = step()
        if trainer.step % SYNC_EVERY == 0 or clock.steps is not None:
            over = clock.synchronise(over=plan.is_over(until))
        if trainer.step % session.settings.log_every == 0:
            by_place = [round(float(value), 4) for value in error_BJ.mean(0)]
            trainer.log(errors=by_place, norm=round(float(norm), 4), progress=round(clock.progress, 3))
        if clock.steps is None and time.monotonic() - saved > SAVE_EVERY_S:
            clock.pause()
            session.save()
            saved = time.monotonic()
            clock.run()
    clock.pause()
    trainer.log(event="end", trained_s=round(clock.trained_s, 1), clips=session.pool.filled)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    standard = CausalSettings()
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/causal"))
    parser.add_argument(
        "--begin-from",
        type=Path,
        default=Path("reelray/checkpoints/sprites"),
        metavar="FOLDER",
        help="exported checkpoint, or the folder of a stage, whose weights are the beginning",
    )
    parser.add_argument("--stages", nargs="+", choices=["adapt", "few"], default=["adapt", "few"])
    parser.add_argument("--adapt-s", type=float, default=ADAPT.budget_s, help="seconds of the first stage")
    parser.add_argument("--few-s", type=float, default=FEW.budget_s, help="seconds of the second stage")
    parser.add_argument("--steps", type=int, help="train each stage for steps instead of seconds")
    parser.add_argument(
        "--stop-after", type=float, default=480.0, help="seconds until training ends in any case, start-up counted"
    )
    parser.add_argument("--clips", type=int, default=standard.clips, help="windows per step and GPU")
    parser.add_argument("--pool", type=int, default=standard.pool, help="clips kept on each GPU")
    parser.add_argument("--first-clips", type=int, default=standard.first_clips, help="clips made before the start")
    parser.add_argument("--renew-every", type=int, default=standard.renew_every)
    parser.add_argument("--log-every", type=int, default=standard.log_every)
    parser.add_argument("--trial-captions", type=int, default=standard.trial_captions, help="0: judge nothing")
    parser.add_argument("--seed", type=int, default=standard.seed)
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and train."""
    started, options = time.monotonic(), parse()
    settings = CausalSettings(
        seed=options.seed,
        clips=options.clips,
        pool=options.pool,
        first_clips=options.first_clips,
        renew_every=options.renew_every,
        log_every=options.log_every,
        trial_captions=options.trial_captions,
        compile_model=not options.no_compile,
    )
    plan = Plan(
        adapt=replace(ADAPT, budget_s=options.adapt_s, steps=options.steps) if "adapt" in options.stages else None,
        few=replace(FEW, budget_s=options.few_s, steps=options.steps) if "few" in options.stages else None,
        stop_after=options.stop_after,
        started=started,
    )
    ranks = Ranks.join()
    try:
        session = CausalSession(settings, options.vae, begin_model(options.begin_from), options.out, ranks)
        with session.judge:
            train(session, plan)
    finally:
        ranks.leave()


if __name__ == "__main__":
    main()
