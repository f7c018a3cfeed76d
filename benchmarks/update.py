"""One PPO minibatch: this harness's update against a plain loop on the same models and the same rollout.

Both begin with equal weights, and the first step must give the same losses, entropy and gradient norms of both
networks. In fp32 both networks' weights must be the same, too, after each of a few steps on the one rollout.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.command import made_folder, parser, positive, run
from benchmarks.materials import Materials, base_model, untrained_scorer, write_rows
from benchmarks.report import Figure, Report
from benchmarks.sizes import RESPONSE_TOKENS, SIZES
from benchmarks.timing import alternate, measure

LR, TEMPERATURE = 1e-5, 0.7
AS_WRITTEN: dict[str, Any] = {"dtype": "float32", "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
"""transformers' own modules, none of this harness's kernels; their dropout would change the losses."""


class Steps(NamedTuple):
    """Both ways to make one update; each call makes the next one and returns its metrics.

    Args:
        ours, plain: the ways.
        models: of each network, by name, ours and the plain loop's.
    """

    ours: Callable[[], dict[str, float]]
    plain: Callable[[], dict[str, float]]
    models: Mapping[str, tuple[Any, Any]]


def prepare(options: argparse.Namespace) -> Steps:
    """A rollout of one minibatch by the base model, and both ways to learn from it."""
    import os

    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    os.environ["HARNESS_BENCHMARK_THREADS"] = str(options.threads)
    from benchmarks.our_side import ppo_run
    from benchmarks.plain_ppo import Minibatch, PlainPPO

    folder = made_folder(options.work, options.size)
    base = base_model(folder, SIZES[options.size])
    scorer = untrained_scorer(folder, base)
    rows = Materials(base, SIZES[options.size]).prompts(options.batch, seed=1)
    algorithm, setup, _ = ppo_run(
        {
            "precision": options.precision,
            "seed": 1,
            "model": base,
            "reward_model": scorer,
            "rows": write_rows(folder / "rows-update.json", rows),
            "episodes": options.batch,
            "batch_size": options.batch,
            "minibatch_size": options.batch,
            "epochs": 1,
            "kl_coef": 0.05,
            "lr": LR,
            "temperature": TEMPERATURE,
            "response_tokens": RESPONSE_TOKENS,
        }
    )
    # The parts of PPOTraining.train: a benchmark of one update needs them one by one.
    state = algorithm._start(setup)
    experience = algorithm._experience(setup, state)
    plain = PlainPPO(
        AutoModelForCausalLM.from_pretrained(base, **AS_WRITTEN),
        AutoModelForSequenceClassification.from_pretrained(scorer, **AS_WRITTEN),
        lr=LR,
        temperature=TEMPERATURE,
        autocast=setup.hardware.autocast,
    )
    batch = Minibatch(experience.batch.ids, *(tensor.clone() for tensor in experience[1:5]))
    value_updates = state.value_updates
    assert value_updates is not None
    value_norms: list[float] = []
    step = value_updates.step

    def kept_norm() -> float:
        value_norms.append(step())
        return value_norms[-1]

    value_updates.step = kept_norm

    def ours() -> dict[str, float]:
        measured: dict[str, float] = algorithm._update(setup, state, experience)
        return {**measured, "value_grad_norm": value_norms[-1]}

    models = {"policy": (state.policy, plain.policy), "value": (state.value, plain.value)}
    return Steps(ours, lambda: plain.step(batch), models)


SAME = ("value_loss", "entropy", "grad_norm", "value_grad_norm")
CHECKED_STEPS = 3
WEIGHT_TOLERANCE = 1e-3
"""Of the way that the weights have gone since the start, in fp32. AdamW's first steps are lr · sign(g) but for eps:
where a gradient is next to 0, rounding decides which way a weight goes."""


def agree(ours: Mapping[str, float], plain: Mapping[str, float], *, tolerance: float) -> bool:
    """Whether both computed the same; the policy's loss, 0 but for rounding at equal weights, is held to its scale."""
    same = (math.isclose(ours[name], plain[name], rel_tol=tolerance) for name in SAME)
    return all(same) and abs(ours["policy_loss"] - plain["policy_loss"]) <= tolerance


def weights(model: Any) -> dict[str, Any]:
    """A model's weights now, by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def apart(ours: Mapping[str, Any], plain: Mapping[str, Any], start: Mapping[str, Any]) -> float:
    """How far two models are from each other, as a share of the way that the plain one has gone since the start.

    Raises:
        ValueError: they do not have the same weights by name.
    """
    if not ours.keys() == plain.keys() == start.keys():
        raise ValueError(f"weights differ by name: {sorted(ours.keys() ^ plain.keys())}")

    def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        return math.sqrt(sum(float((one[name] - other[name]).double().square().sum()) for name in one))

    return distance(ours, plain) / distance(plain, start)


def compare(options: argparse.Namespace) -> Report:
    """All rounds."""
    import torch

    torch.set_num_threads(options.threads)
    steps = prepare(options)
    sides = {"ours": steps.ours, "plain": steps.plain}
    start = {network: weights(plain) for network, (_, plain) in steps.models.items()}
    first = {name: step() for name, step in sides.items()}  # also the warm-up
    report = Report("update", _asked(options), options.threads, details={"first_step": first})
    tolerance = 1e-3 if options.precision == "fp32" else 5e-2
    sentence = f"the first step is the same to {tolerance:g}: value loss {first['ours']['value_loss']:.5g}"
    report.checks[f"{sentence} and {first['plain']['value_loss']:.5g}"] = agree(**first, tolerance=tolerance)
    if options.precision == "fp32":
        for _ in range(CHECKED_STEPS - 1):
            for step in sides.values():
                step()
        for network, (ours, plain) in steps.models.items():
            share = apart(weights(ours), weights(plain), start[network])
            report.details[f"{network}_weights_apart"] = share
            sentence = f"{network}: after {CHECKED_STEPS} steps the weights are {100 * share:.2g} % of their way apart"
            report.checks[sentence] = share <= WEIGHT_TOLERANCE

    def several(step: Callable[[], dict[str, float]]) -> Any:
        return measure(lambda: [step() for _ in range(options.steps)])[1]

    measured = alternate({"ours": lambda: several(steps.ours), "plain": lambda: several(steps.plain)}, options.rounds)
    speeds = {side: [options.steps / each.seconds for each in rows] for side, rows in measured.items()}
    report.figures.append(Figure(f"PPO minibatch of {options.batch}", "updates/s", speeds, ("ours", "plain")))
    report.note_company([each.others for rows in measured.values() for each in rows])
    return report


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("size", "rounds", "batch", "steps", "precision")}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("update", __doc__, rounds=7)
    options.add_argument("--batch", type=positive, default=32, help="episodes in the minibatch (default: 32)")
    options.add_argument("--steps", type=positive, default=3, help="updates in one measurement (default: 3)")
    options.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="precision of both sides (default: fp32)"
    )
    return run(options, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
