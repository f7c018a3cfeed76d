"""How PPO's time and memory grow: with the number of prompts, response length, batch and size of the model.

One point is the base; each other one changes one thing. Every point has a process of its own, and so its own peak of
memory, and one short unmeasured run before. Ten times the prompts must cost at most 10.5 times the time, at the same
memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from benchmarks.command import made_folder, parser, positive, run
from benchmarks.materials import Materials, base_model, untrained_scorer, write_rows
from benchmarks.picture import Bar
from benchmarks.report import Figure, Report
from benchmarks.sides import Side
from benchmarks.sizes import RESPONSE_TOKENS, SIZES
from benchmarks.timing import alternate

MOST_TIME, MOST_MEMORY = 10.5, 1.05
"""Of ten times the prompts: factors of time and of peak memory."""
LARGER = {"micro": "tiny", "tiny": "small", "small": "small"}


class Point(NamedTuple):
    """One set-up.

    Args:
        name: what differs from the base.
        factor: by how much.
        size: of the model.
        prompts: each is one episode.
        tokens: of each response.
        batch: episodes per rollout.
    """

    name: str
    factor: float
    size: str
    prompts: int
    tokens: int
    batch: int


def points(options: argparse.Namespace) -> list[Point]:
    """The base, then what differs from it in one thing."""
    base = Point("base", 1.0, options.size, options.prompts, RESPONSE_TOKENS // 2, options.prompts // 2)
    made = [
        base,
        base._replace(name="10 times the prompts", factor=10.0, prompts=10 * base.prompts),
        base._replace(name="twice the response", factor=2.0, tokens=2 * base.tokens),
        base._replace(name="twice the batch", factor=2.0, batch=2 * base.batch),
    ]
    larger = LARGER[options.size]
    if options.larger and larger != options.size:
        factor = _weights(larger) / _weights(options.size)
        made.append(base._replace(name=f"{larger} model", factor=factor, size=larger))
    return made


def _weights(size: str) -> float:
    """Weights of the layers and of the vocabulary, which one token is multiplied with."""
    shape = SIZES[size]
    return 12.0 * shape.layers * shape.width**2 + shape.vocab_size * shape.width


def request(point: Point, options: argparse.Namespace, *, warm: bool = False) -> dict[str, Any]:
    """What a point's process is asked to do; ``warm``: two rollouts' worth of it."""
    size = SIZES[point.size]
    folder = made_folder(options.work, point.size)
    base = base_model(folder, size)
    scorer = untrained_scorer(folder, base)
    count = point.batch if warm else point.prompts
    rows = folder / f"rows-scale-{count}.json"
    if not rows.is_file():
        write_rows(rows, Materials(base, size).prompts(count, seed=1))
    return {
        "precision": options.precision,
        "seed": 1,
        "model": str(base),
        "reward_model": str(scorer),
        "rows": str(rows),
        "episodes": count,
        "batch_size": point.batch,
        "minibatch_size": point.batch // 4,
        "epochs": 4,
        "kl_coef": 0.05,
        "lr": 1e-5,
        "temperature": 0.7,
        "response_tokens": point.tokens,
    }


def compare(options: argparse.Namespace) -> Report:
    """All rounds of all points."""
    report = Report("scale", _asked(options), options.threads)
    all_points = {point.name: point for point in points(options)}
    requests = {name: request(point, options) for name, point in all_points.items()}
    log = made_folder(options.work, options.size) / "log.txt"
    with ExitStack() as stack:
        work = {}
        for name, point in all_points.items():
            side = stack.enter_context(Side(sys.executable, "benchmarks.our_side", threads=options.threads, log=log))
            side.ask("ppo", **request(point, options, warm=True))
            work[name] = partial(side.ask, "ppo", **requests[name])
        measured = alternate(work, options.rounds)
    report.details["measurements"] = measured
    report.details["points"] = {name: point._asdict() for name, point in all_points.items()}
    _add_figures(report, measured)
    report.note_company([row["others"] for rows in measured.values() for row in rows])
    return report


def _add_figures(report: Report, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Time and memory of every point beside the base's, and what ten times the prompts may cost."""
    for quantity, key, unit in (("time", "seconds", "s"), ("peak memory", "peak_memory_mb", "MB")):
        values = {name: [row[key] for row in rows] for name, rows in measured.items()}
        for name in list(measured)[1:]:
            both = {name: values[name], "base": values["base"]}
            report.figures.append(Figure(f"{quantity}: {name}", unit, both, (name, "base")))
    most = {"time": MOST_TIME, "peak memory": MOST_MEMORY}
    for figure in report.figures:
        quantity, _, name = figure.name.partition(": ")
        if name == "10 times the prompts" and figure.ratio is not None:
            report.checks[f"{name}: {figure.ratio.median:.2f} times the {quantity}, at most {most[quantity]}"] = (
                figure.ratio.median <= most[quantity]
            )


def bars(report: Report) -> list[Bar]:
    """Factors of time and of memory, each marked where it would grow as the thing itself does."""
    drawn = []
    for figure in report.figures:
        quantity, _, name = figure.name.partition(": ")
        factor = report.details["points"][name]["factor"] if quantity == "time" else 1.0
        if figure.ratio is not None:
            drawn.append(Bar(f"{figure.name}, times the base's", figure.ratio, 1.0 if "batch" in name else factor))
    return drawn


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    names = ("size", "rounds", "prompts", "larger", "precision")
    return {name: getattr(options, name) for name in names}


def _multiple(given: str) -> int:
    number = positive(given)
    if number % 8:
        raise argparse.ArgumentTypeError(
            f"{number} is no multiple of 8: half of the prompts are a batch in 4 minibatches"
        )
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("scale", __doc__, rounds=3)
    options.add_argument(
        "--prompts", type=_multiple, default=128, help="number of the base's prompts, a multiple of 8 (default: 128)"
    )
    options.add_argument(
        "--larger",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the next larger size of model as well (default: yes)",
    )
    options.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="precision of all points (default: fp32)"
    )
    return run(options, compare, arguments, bars=bars)


if __name__ == "__main__":
    sys.exit(main())
