"""The loop's three stages, SFT, reward model and PPO, against TRL's: the same models, tokens and settings in turn.

Both sides start every stage from the same checkpoint and make updates at the same constant learning rate; each runs in
a process of its own, which waits while the other works, after a short run that is not measured. Either side counts what
it is given as it learns from it, and the counts must be equal. What the sides made of it is then measured by one
yardstick: both must have learned something, and ours no less.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from benchmarks import learning
from benchmarks.command import add_names, factor, made_folder, parser, positive, run, work_folder
from benchmarks.learning import Learned
from benchmarks.materials import Materials, Rows, base_model, write_rows
from benchmarks.our_side import NEVER
from benchmarks.report import Figure, Report
from benchmarks.sides import Side
from benchmarks.sizes import RESPONSE_TOKENS, SIZES
from benchmarks.timing import alternate
from benchmarks.trl_environment import TRL, make

STAGES = {"sft": ("SFT", "tokens/s"), "reward_model": ("reward model", "pairs/s"), "ppo": ("PPO", "episodes/s")}
WARM_UP = 0.1
"""Of a measurement's work: what each side does before the first, unmeasured."""
START_SEED, TRAIN_SEED, HELD_OUT_SEED = 1, 2, 3
"""Of the texts: what the starting models saw, what both sides train on, and what neither sees."""


@dataclass(frozen=True)
class Amount:
    """How much of each stage is one measurement.

    Args:
        sft_steps, reward_model_steps: updates of one batch each.
        ppo_iterations: rollouts of ``ppo_batch`` episodes, each with four passes over it.
        batch: texts, and pairs, per update.
        ppo_batch: episodes per rollout; a quarter of them is a minibatch.
        start_steps: SFT updates of the policy that reward model and PPO start from; half as many of the reward model.
        held_out: rows of each kind by which the finished models are compared.
        reward_model_lr: a rate at which so few updates teach what holds for unseen pairs.
    """

    sft_steps: int
    reward_model_steps: int
    ppo_iterations: int
    batch: int = 32
    ppo_batch: int = 128
    start_steps: int = 100
    held_out: int = 512
    reward_model_lr: float = 1e-3

    def times(self, factor: float) -> Amount:
        counts = {
            name: max(1, round(getattr(self, name) * factor))
            for name in ("sft_steps", "reward_model_steps", "ppo_iterations")
        }
        return Amount(**{**asdict(self), **counts})


AMOUNTS = {
    "micro": Amount(2, 2, 1, batch=4, ppo_batch=8, start_steps=4, held_out=16),
    "tiny": Amount(40, 25, 3),
    "small": Amount(20, 20, 2, held_out=256, reward_model_lr=2e-4),
}


class Loop:
    """One comparison: its texts, its starting models and what each stage is asked to do.

    Args:
        options: the command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.amount = AMOUNTS[options.size].times(options.scale)
        self.folder = made_folder(options.work, options.size)
        self.base = base_model(self.folder, SIZES[options.size])
        self.materials = Materials(self.base, SIZES[options.size])
        steps = self.amount.start_steps
        self.policy, self.reward_model = self.folder / f"sft-{steps}", self.folder / f"reward-model-{steps // 2}"

    def make_start(self) -> None:
        """Train the policy and the reward model that later stages begin with, unless they are there."""
        steps, batch = self.amount.start_steps, self.amount.batch
        made: Sequence[tuple[str, Path, Callable[[], Rows]]] = (
            ("sft", self.policy, lambda: self.materials.demonstrations(steps * batch, seed=START_SEED)),
            ("reward_model", self.reward_model, lambda: self.materials.pairs(steps // 2 * batch, seed=START_SEED)),
        )
        missing = [each for each in made if not (each[1] / "config.json").is_file()]
        if not missing:
            return
        with self.side(sys.executable, "benchmarks.our_side") as side:
            for stage, target, rows in missing:
                print(f"making the {STAGES[stage][0]} that later stages start from", file=sys.stderr)
                path = write_rows(self.folder / "rows-start.json", rows())
                unfinished = target.with_name(f"{target.name}-unfinished")
                side.ask(stage, save=unfinished, seed=0, **{**self._common(stage, "fp32"), "rows": str(path)})
                unfinished.rename(target)

    def side(self, python: str | Path, module: str) -> Side:
        requires = {"trl": TRL} if module == "benchmarks.trl_side" else {}
        return Side(python, module, threads=self.options.threads, log=self.folder / "log.txt", requires=requires)

    def details(self, stage: str, precision: str, *, part: float = 1.0) -> dict[str, Any]:
        """What one measurement of a stage asks for, its seed aside.

        Args:
            stage: which.
            precision: of the side that is asked.
            part: how much of the work; at least one update, or rollout, is left of it.
        """
        amount, made = self.amount.times(part), self.materials
        rows: Callable[[], Rows] = {
            "sft": lambda: made.demonstrations(amount.sft_steps * amount.batch, seed=TRAIN_SEED),
            "reward_model": lambda: made.pairs(amount.reward_model_steps * amount.batch, seed=TRAIN_SEED),
            "ppo": lambda: made.prompts(amount.ppo_iterations * amount.ppo_batch, seed=TRAIN_SEED),
        }[stage]
        path = self.folder / f"rows-{stage}{'' if part == 1 else '-warm-up'}.json"
        asked = {**self._common(stage, precision), "rows": str(write_rows(path, rows()))}
        return {**asked, "episodes": amount.ppo_iterations * amount.ppo_batch} if stage == "ppo" else asked

    def _common(self, stage: str, precision: str) -> dict[str, Any]:
        shared = {"precision": precision, "batch_size": self.amount.batch}
        if stage == "sft":
            return {**shared, "model": str(self.base), "lr": 1e-3}
        if stage == "reward_model":
            return {**shared, "model": str(self.policy), "lr": self.amount.reward_model_lr}
        return {
            **shared,
            "model": str(self.policy),
            "reward_model": str(self.reward_model),
            "lr": 1e-4,
            "max_grad_norm": NEVER,
            "batch_size": self.amount.ppo_batch,
            "minibatch_size": self.amount.ppo_batch // 4,
            "epochs": 4,
            "kl_coef": 0.05,
            "temperature": 0.7,
            "response_tokens": RESPONSE_TOKENS,
        }

    def learned(self, stage: str, finished: Mapping[str, Sequence[Path]]) -> Learned:
        """The finished models of a stage against each other and against what they began with."""
        count = self.amount.held_out
        if stage == "sft":
            measure: Callable[[Path], float] = partial(
                learning.held_out_loss, rows=self.materials.demonstrations(count, seed=HELD_OUT_SEED)
            )
            return learning.compare("held-out loss", measure, self.base, finished, higher_is_better=False)
        if stage == "reward_model":
            pairs = self.materials.pairs(count, seed=HELD_OUT_SEED)
            measure = partial(learning.held_out_preference_loss, rows=pairs)
            # Its head is new, another one for each seed: it tells nothing apart.
            return learning.compare("held-out loss", measure, math.log(2), finished, higher_is_better=False)
        measure = partial(
            learning.sampled_score,
            reward_model=self.reward_model,
            rows=self.materials.prompts(count, seed=HELD_OUT_SEED),
            tokens=RESPONSE_TOKENS,
            temperature=0.7,
        )
        return learning.compare("held-out score", measure, self.policy, finished, higher_is_better=True)


def compare(options: argparse.Namespace) -> Report:
    """All rounds of all stages."""
    loop, (first, second) = Loop(options), ("ours", "trl" if options.against == "trl" else "ours again")
    settings = {**_plain(options), "amount": asdict(loop.amount)}
    report = Report("loop", settings, options.threads)
    models = loop.folder / "finished"
    shutil.rmtree(models, ignore_errors=True)
    company: list[float | None] = []
    loop.make_start()
    for stage in options.stages:
        with ExitStack() as stack:
            sides = {
                name: stack.enter_context(loop.side(python, module))
                for name, python, module in ((first, sys.executable, "benchmarks.our_side"), (second, *_other(options)))
            }
            measured, finished = _measure(loop, stage, sides, options)
            report.details["versions"] = {name: side.versions for name, side in sides.items()}
        company += [row["others"] for rows in measured.values() for row in rows]
        _add_figures(report, stage, measured)
        learned = loop.learned(stage, finished)
        report.details[stage] = {"measurements": measured, "learned": learned.row()}
        sentence, same = equal_work(STAGES[stage][0], measured)
        report.checks[sentence] = same
        if learned.verdict != "unknown":
            report.checks[_sentence(stage, learned, second)] = learned.verdict in ("same", "more")
        print(report.text(), end="\n\n", file=sys.stderr)
    shutil.rmtree(models, ignore_errors=True)
    report.note_company(company)
    if options.rounds < 2:
        report.notes.append("one round has no spread over seeds: whether both sides learn the same takes two or more")
    return report


def _measure(
    loop: Loop, stage: str, sides: Mapping[str, Side], options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[Path]]]:
    """Every side's measurements and finished models, one per round, whose number is the seed."""
    finished: dict[str, list[Path]] = {name: [] for name in sides}

    def once(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
        seed = len(finished[name]) + 1
        target = loop.folder / "finished" / f"{stage}-{name.replace(' ', '-')}-{seed}"
        finished[name].append(target)
        return sides[name].ask(stage, save=target, seed=seed, **details)

    ours, theirs = sides
    precisions = {ours: options.precision, theirs: options.their_precision}
    choices: dict[str, dict[str, Any]] = {ours: {}, theirs: {}}
    if options.against == "trl":
        choices[theirs] = {"loss": options.their_loss, "rollout_batch": options.their_rollout_batch}
    for name, side in sides.items():
        side.ask(stage, seed=0, **choices[name], **loop.details(stage, precisions[name], part=WARM_UP))
    work = {
        name: partial(once, name, {**choices[name], **loop.details(stage, precisions[name])}) for name in (ours, theirs)
    }
    return alternate(work, options.rounds), finished


def _add_figures(report: Report, stage: str, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    name, unit = STAGES[stage]
    ours, theirs = measured
    speed = {side: [row["work"] / row["seconds"] for row in rows] for side, rows in measured.items()}
    # A later round finds what an earlier one has left behind; the first, only what a tenth of the work has.
    peak = {side: [rows[0]["peak_memory_mb"]] for side, rows in measured.items()}
    above = {side: [rows[0]["peak_memory_mb"] - rows[0]["import_memory_mb"]] for side, rows in measured.items()}
    report.figures += [
        Figure(name, unit, speed, (ours, theirs)),
        Figure(f"{name}: peak memory", "MB", peak, (ours, theirs)),
        Figure(f"{name}: above imports", "MB", above, (ours, theirs)),
    ]


def equal_work(name: str, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, bool]:
    """Whether both sides counted the same in every round, and a sentence that says what.

    Args:
        name: of the stage.
        measured: side -> its measurements, each with what it has ``seen``: a number by name.
    """
    ours, theirs = ([row["seen"] for row in rows] for rows in measured.values())

    def told(seen: Mapping[str, float]) -> str:
        return ", ".join(f"{key.replace('_', ' ')} {value:,.12g}" for key, value in seen.items())

    for number, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        if one.keys() != other.keys() or not all(math.isclose(one[key], other[key], rel_tol=1e-9) for key in one):
            names = list(measured)
            return f"{name}: equal work; round {number}: {names[0]} {told(one)}; {names[1]} {told(other)}", False
    return f"{name}: equal work, counted on both sides: {told(ours[0])}", True


def _sentence(stage: str, learned: Learned, second: str) -> str:
    numbers = f"{mean(learned.ours):.4g} against {mean(learned.theirs):.4g}"
    found = f"{learned.name} {numbers} from {learned.start:.4g}, {learned.noise:.2g} apart by seeds alone"
    if learned.verdict == "void":
        return f"{STAGES[stage][0]}: void, as not every seed of both sides learns more than seeds differ: {found}"
    return f"{STAGES[stage][0]} learns no less than {second} ({learned.verdict}): {found}"


def _other(options: argparse.Namespace) -> tuple[Path, str]:
    """Interpreter and module of the side that we are compared with."""
    if options.against == "self":
        return Path(sys.executable), "benchmarks.our_side"
    python = options.trl_python or make(work_folder(options.work) / "trl")
    return Path(python), "benchmarks.trl_side"


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("loop", __doc__, rounds=3)
    precisions = ("fp32", "bf16")
    options.add_argument(
        "--against",
        choices=("trl", "self"),
        default="trl",
        help="what the harness is compared with; self shows what noise alone does (default: trl)",
    )
    options.add_argument(
        "--trl-python", help=f"Python of an environment with TRL {TRL} (default: one is made in the --work folder)"
    )
    options.add_argument(
        "--precision", choices=precisions, default="fp32", help="precision of this harness's side (default: fp32)"
    )
    options.add_argument(
        "--their-precision", choices=precisions, default="fp32", help="precision of the other side (default: fp32)"
    )
    options.add_argument(
        "--their-loss",
        choices=("nll", "chunked_nll"),
        default=None,
        help="loss_type of TRL's SFT (default: TRL's own, chunked_nll)",
    )
    options.add_argument(
        "--their-rollout-batch",
        type=positive,
        default=None,
        metavar="N",
        help="local_rollout_forward_batch_size of TRL's PPO: rows that it samples and scores at a time "
        "(default: TRL's own, 64)",
    )
    add_names(options, "--stages", STAGES, "stage", "stages to measure")
    options.add_argument(
        "--scale",
        type=factor,
        default=1.0,
        help="factor on the work in one measurement, rounded to updates (default: 1)",
    )
    return run(options, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
