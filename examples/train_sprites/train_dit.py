"""Train the sprites transformer together with its small text encoder on latents of the trained VAE.

    python -m examples.train_sprites.train_dit --vae runs/vae --out runs/dit --budget 1500
    python -m torch.distributed.run --standalone --nproc_per_node 4 -m examples.train_sprites.train_dit ...

The budget counts seconds of training over all sessions, start-up and compilation aside. `--stop-after` ends a session
with a state that `--resume` goes on from. One caption in ten is dropped, so that classifier-free guidance has an
unconditional branch (the empty prompt, as pipelines send it).
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from examples.train_sprites.dit_session import DitSession, Settings
from examples.train_sprites.export import read_text
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.state_parts import read_parts
from reelray.workers.models.wan.weights import load_transformer


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Limits of one process.

    Args:
        out: Folder of log, state and result.
        stop_after: Seconds after which the process saves and ends; None means when the budget is spent.
        resume: Go on from the state in `out`.
        started: `time.monotonic()` at the start of the process.
        begin_from: Exported checkpoint, with whose transformer and text encoder a new run begins.
    """

    out: Path
    stop_after: float | None
    resume: bool
    started: float
    begin_from: Path | None = None

    def is_over(self) -> bool:
        """Whether this process should save and end."""
        return self.stop_after is not None and time.monotonic() - self.started > self.stop_after


def train(settings: Settings, session: Session, vae_folder: Path, ranks: Ranks) -> bool:
    """Train until the budget is spent or the session over; returns whether the model is complete.

    Args:
        settings: Size of the whole run.
        session: Limits of this process.
        vae_folder: What `train_vae` wrote.
        ranks: The processes that train together.

    Raises:
        ValueError: There is no state to go on from, or a damaged one.
        WeightsError: There is no transformer to begin with.
    """
    run = DitSession(settings, vae_folder, session.out, ranks)
    with run.judge:
        if session.resume:
            state = read_parts(session.out)
            if state is None:
                raise ValueError(f"there is no state.json in {session.out}; run once without --resume")
            run.restore(state)
        elif session.begin_from is None:
            run.teach_text()
        else:
            transformer = load_transformer(session.begin_from / "transformer", "cpu", torch.float32)
            run.begin_with(transformer, read_text(session.begin_from))
        run.start()
        over = False
        while not over and run.clock.progress < 1:
            run.take_step()
            if run.trainer.step % settings.sync_every == 0:
                over = run.clock.synchronise(over=session.is_over())
            if run.trainer.step % settings.log_every == 0:
                run.log_loss()
            if run.trainer.step % settings.measure_every == 0:
                run.measure()
                run.save()
        complete = run.clock.progress >= 1
        run.measure()
        run.save()
        run.finish(complete=complete)
    return complete


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    standard = Settings()
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/dit"))
    parser.add_argument("--seed", type=int, default=standard.seed)
    parser.add_argument("--budget", type=float, default=standard.budget_s, help="seconds of training in all sessions")
    parser.add_argument("--steps", type=int, help="train for steps instead of seconds")
    parser.add_argument("--batch", type=int, default=standard.batch, help="whole clips per step and GPU")
    parser.add_argument("--pair-share", type=float, default=standard.pair_share, help="share of clips with two sprites")
    parser.add_argument(
        "--restless", type=float, default=standard.restless, help="how much likelier clips are that spin or bounce"
    )
    parser.add_argument("--beige", type=float, default=standard.beige, help="how much likelier beige backgrounds are")
    parser.add_argument("--pool", type=int, default=standard.pool, help="clips kept on each GPU")
    parser.add_argument(
        "--short-share", type=float, default=standard.short_share, help="share of the run on short clips"
    )
    parser.add_argument("--renew-every", type=int, default=standard.renew_every)
    parser.add_argument("--measure-every", type=int, default=standard.measure_every)
    parser.add_argument(
        "--matrix-rate", type=float, default=standard.matrix_rate, help="learning rate of Muon; 0: AdamW"
    )
    parser.add_argument("--learning-rate", type=float, default=standard.learning_rate, help="of AdamW")
    parser.add_argument("--text-rate", type=float, default=standard.text_rate, help="of AdamW for the text encoder")
    parser.add_argument(
        "--text-steps", type=int, default=standard.text_steps, help="steps of the text encoder on captions alone, first"
    )
    parser.add_argument(
        "--begin-from", type=Path, metavar="FOLDER", help="begin with the weights of an exported checkpoint"
    )
    parser.add_argument("--stop-after", type=float, help="seconds until this process saves its state and ends")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--profile", action="store_true", help="write the costliest kernels of ten steps to profile_FRAMES.txt"
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line and train."""
    started, options = time.monotonic(), parse()
    settings = Settings(
        seed=options.seed,
        budget_s=options.budget,
        steps=options.steps,
        batch=options.batch,
        pair_share=options.pair_share,
        restless=options.restless,
        beige=options.beige,
        short_share=options.short_share,
        pool=options.pool,
        renew_every=options.renew_every,
        measure_every=options.measure_every,
        learning_rate=options.learning_rate,
        text_rate=options.text_rate,
        text_steps=options.text_steps,
        matrix_rate=options.matrix_rate,
        compile_model=not options.no_compile,
        profile=options.profile,
    )
    ranks = Ranks.join()
    session = Session(
        out=options.out,
        stop_after=options.stop_after,
        resume=options.resume,
        started=started,
        begin_from=options.begin_from,
    )
    try:
        complete = train(settings, session, options.vae, ranks)
    finally:
        ranks.leave()
    if ranks.leads:
        print("complete" if complete else "stopped; go on with --resume", flush=True)


if __name__ == "__main__":
    main()
