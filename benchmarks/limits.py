"""How near the loop comes to what a device can do, at real sizes: its memory's bandwidth, and its matrix products.

Rollouts of random weights are compared with transformers' generate, and with reading every weight and every key and
value once per token, at the bandwidth that copying reaches. The model says, as in ``benchmarks.rollout``, whether every
engine answered as generate does. SFT is compared with the rate of one large matrix product. PPO is split into its
phases. A GPU in bf16 is what this is for; a CPU shows that it runs.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

from benchmarks.command import add_names, made_folder, parser, positive, run
from benchmarks.materials import Rows, base_model, untrained_scorer, write_rows
from benchmarks.report import Figure, Report
from benchmarks.rollout import TEMPERATURE, Case, Responses, check, generate, ours
from benchmarks.sizes import REAL_SIZES, SIZES
from benchmarks.timing import Measured, alternate, measure
from harness.errors import UserError

ENGINES = ("native", "compiled")
STAGES = ("rollout", "sft", "ppo")


class Limits:
    """One device, one model and what each stage is asked to do.

    Args:
        options: the command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.size = options, REAL_SIZES[options.size]
        self.on_gpu = options.device.startswith("cuda")
        self.folder = made_folder(options.work, f"real-{options.size}")
        self.base = base_model(self.folder, self.size)
        os.environ["HARNESS_BENCHMARK_THREADS"] = str(options.threads)

    def prompts(self, count: int, tokens: int) -> list[list[int]]:
        """Random ids that any of the sizes knows; 0 and 1 are EOS and pad."""
        generator = Random(count + tokens)
        return [[generator.randrange(2, SIZES["micro"].vocab_size // 2) for _ in range(tokens)] for _ in range(count)]

    def request(self, name: str, rows: Rows, **more: Any) -> dict[str, Any]:
        """What a stage of ``benchmarks.our_side`` is asked."""
        options = self.options
        path = write_rows(self.folder / f"rows-{name}.json", rows)
        where = {"device": options.device, "precision": options.precision, "engine": options.engine}
        return {"model": str(self.base), "rows": str(path), "seed": 1, "lr": 1e-6, **where, **more}

    def synchronized(self, work: Callable[[], Any]) -> Measured:
        """Measure until the device has ended its work."""
        import torch

        def whole() -> None:
            work()
            if self.on_gpu:
                torch.cuda.synchronize(self.options.device)

        return measure(whole)[1]

    def best(self, work: Callable[[], Any], count: int = 5) -> float:
        """Seconds, the median of some after one that does not count."""
        self.synchronized(work)
        return statistics.median(self.synchronized(work).seconds for _ in range(count))

    def bandwidth(self) -> float:
        """Bytes per second, read and written together, of copying what no cache holds."""
        import torch

        size = 2**30 if self.on_gpu else 2**28
        source = torch.zeros(size, dtype=torch.uint8, device=self.options.device)
        target = torch.ones_like(source)
        return 2 * size / self.best(lambda: target.copy_(source))

    def matrix_rate(self) -> float:
        """FLOP/s of a square product in the precision of the run."""
        import torch

        width = 8192 if self.on_gpu else 1024
        kind = torch.float32 if self.options.precision == "fp32" else torch.bfloat16
        left, right = (torch.randn(width, width, device=self.options.device).to(kind) for _ in range(2))
        return 2.0 * width**3 / self.best(lambda: left @ right)


def multiplied_weights(model: Any) -> int:
    """All weights but those of an input embedding that the output layer does not share."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    all_weights = sum(int(weight.numel()) for weight in model.parameters())
    return all_weights - (0 if head is embedding else int(embedding.numel()))


def bytes_read(limits: Limits, model: Any, rows: int, prompt: int, tokens: int) -> float:
    """Of one rollout at the least: for every token all weights but the input embedding's, and all keys and values.

    Args:
        limits: says the precision: weights and cache are read in it.
        model: whose weights; an embedding that the output layer shares is read by that.
        rows: at a time.
        prompt, tokens: of each row. The prompt's own pass is not counted.
    """
    each = 4 if limits.options.precision == "fp32" else 2
    weights = multiplied_weights(model)
    size = limits.size
    cached = sum(2 * size.layers * size.width * rows * (prompt + step) for step in range(1, tokens + 1))
    return float(each) * (weights * tokens + cached)


def training_flops(limits: Limits, model: Any, tokens: int, length: int) -> float:
    """Of SFT's forward and backward pass: 6 N per token, and 12 L d T for attention, where d is the width.

    Source: Chowdhery et al. 2022 (arXiv 2204.02311), appendix B: 6 N + 12 L H Q T, H heads of size Q; H Q = d.

    Args:
        limits: says the model's size.
        model: whose weights count, N, but for an input embedding, which nothing is multiplied with.
        tokens: in all.
        length: T, of a row.
    """
    weights = multiplied_weights(model)
    return float(tokens) * (6 * weights + 12 * limits.size.layers * limits.size.width * length)


def rollout_sides(limits: Limits, case: Case) -> dict[str, Callable[[int], Responses]]:
    """Name -> who answers a seed: our engines, and generate."""
    options = limits.options
    sides = {engine: ours(case, options.precision, engine) for engine in ENGINES if engine in options.engines}
    return {**sides, "generate": generate(case, options.precision)}


def check_rollouts(limits: Limits, report: Report, case: Case, answered: Mapping[str, Responses]) -> None:
    """What every engine sampled, and what it chooses greedily, against generate and against the model itself.

    Args:
        limits: says the precision.
        report: gets the checks.
        case: what was sampled.
        answered: engine, or ``generate`` -> responses.
    """
    exact = limits.options.precision == "fp32"
    greedy = case._replace(temperature=0.0)
    chosen = {name: side(0) for name, side in rollout_sides(limits, greedy).items()}
    for each, responses in ((case, answered), (greedy, chosen)):
        kind = "sampled" if each.temperature else "greedy"
        engines = {f"rollout, {name}, {kind}": said for name, said in responses.items() if name != "generate"}
        check(report, each, engines, responses["generate"], exact=exact)


def add_rollouts(limits: Limits, report: Report) -> None:
    """Our engines and generate in turn, and the share of the bandwidth's bound that each of ours reaches."""
    from harness.models.loading import load_language_model

    options = limits.options
    prompts = limits.prompts(options.batch, options.prompt_tokens)
    case = Case(
        "rollout", limits.base, prompts, options.response_tokens, TEMPERATURE, ends=False, device=options.device
    )
    sides = rollout_sides(limits, case)
    answered = {name: [side(0), side(0)][-1] for name, side in sides.items()}  # what is compiled, then what is recorded
    measured = alternate(
        {name: partial(limits.synchronized, partial(side, 0)) for name, side in sides.items()}, options.rounds
    )
    check_rollouts(limits, report, case, answered)
    work = options.batch * options.response_tokens
    speeds = {name: [work / each.seconds for each in rows] for name, rows in measured.items()}
    model = load_language_model(limits.base).model
    needed = bytes_read(limits, model, options.batch, options.prompt_tokens, options.response_tokens)
    bound = work / (needed / limits.bandwidth())
    report.details["rollout"] = {"bytes": needed, "bound_tokens_per_second": bound}
    for engine in speeds:
        if engine != "generate":
            pair = {engine: speeds[engine], "generate": speeds["generate"]}
            shares = {engine: [100 * speed / bound for speed in speeds[engine]]}
            report.figures += [
                Figure(f"rollout, {engine}", "tokens/s", pair, (engine, "generate")),
                Figure(f"rollout, {engine}: of the bandwidth's bound", "%", shares),
            ]
    report.note_company([each.others for rows in measured.values() for each in rows])


def add_sft(limits: Limits, report: Report) -> None:
    """Tokens per second, and the share of the matrix rate."""
    from benchmarks import our_side
    from harness.models.loading import load_language_model

    options = limits.options
    length = options.prompt_tokens + options.response_tokens
    rows = [{"input_ids": ids} for ids in limits.prompts(options.sft_batch * options.steps, length)]
    prepared = our_side.sft(limits.request("sft", rows, batch_size=options.sft_batch))
    prepared.train()
    seconds = [limits.synchronized(prepared.train).seconds for _ in range(options.rounds)]
    tokens = options.sft_batch * options.steps * length
    flops = training_flops(limits, load_language_model(limits.base).model, tokens, length)
    rate = limits.matrix_rate()
    report.details["sft"] = {"flops": flops, "matrix_flops_per_second": rate}
    shares = [100 * flops / each / rate for each in seconds]
    report.figures += [
        Figure("SFT", "tokens/s", {"ours": [tokens / each for each in seconds]}),
        Figure("SFT: of the matrix rate", "%", {"ours": shares}),
    ]


def add_ppo(limits: Limits, report: Report) -> None:
    """Episodes per second, and each phase's share of the time; the first iteration, which compiles, does not count."""
    from benchmarks import our_side

    options, scorer = limits.options, untrained_scorer(limits.folder, limits.base)
    episodes = options.batch * (options.rounds + 1)
    rows = [{"input_ids": ids} for ids in limits.prompts(episodes, options.prompt_tokens)]
    amounts = {
        "episodes": episodes,
        "batch_size": options.batch,
        "minibatch_size": options.minibatch,
        "epochs": options.epochs,
        "kl_coef": 0.05,
        "temperature": TEMPERATURE,
        "response_tokens": options.response_tokens,
    }
    request = limits.request("ppo", rows, reward_model=str(scorer), **amounts)
    algorithm, setup, logged = our_side.ppo_run(request)
    result = algorithm.train(setup)
    report.checks[f"PPO ends well: {result.status}"] = result.status == "ok"
    phases = {name: [row[f"seconds_{name}"] for row in logged[1:]] for name in our_side.PHASES}
    # From one iteration's end to the next one's: what lies between the phases counts as well.
    whole = [row["logged_at"] - before["logged_at"] for before, row in pairwise(logged)]
    report.figures.append(Figure("PPO", "episodes/s", {"ours": [options.batch / each for each in whole]}))
    for name, seconds in phases.items():
        shares = {"ours": [100 * one / all_ for one, all_ in zip(seconds, whole, strict=True)]}
        report.figures.append(Figure(f"PPO: {name}", "% of the time", shares))


ADD = {"rollout": add_rollouts, "sft": add_sft, "ppo": add_ppo}


def compare(options: argparse.Namespace) -> Report:
    """All stages that were asked for.

    Raises:
        UserError: sizes that do not fit each other.
    """
    _check_sizes(options)
    from harness.config import HardwareConfig
    from harness.hardware import Hardware

    hardware = Hardware.resolve(
        HardwareConfig(device=options.device, precision=options.precision, threads=options.threads, workers=1)
    ).prepare()
    options.device = hardware.device
    options.precision = hardware.precision
    asked = {name: value for name, value in vars(options).items() if name not in ("work", "to", "picture")}
    report = Report("limits", asked, options.threads, details={"device": hardware.description()})
    limits = Limits(options)
    for stage in options.stages:
        gc.collect()
        _forget_peak(hardware.device)
        ADD[stage](limits, report)
        if stage != "rollout":  # which has the models of all sides
            report.figures.append(Figure(f"{stage}: peak memory", "MB", {"ours": [_peak(hardware.device)]}))
    return report


def _check_sizes(options: argparse.Namespace) -> None:
    if options.batch % options.minibatch:
        remedy = "give a divisor of it"
        raise UserError("--minibatch", options.minibatch, f"does not divide --batch={options.batch}", remedy)
    context, tokens = REAL_SIZES[options.size].context, options.prompt_tokens + options.response_tokens
    if tokens > context:
        rule = f"leaves no room for the response: with it {tokens} tokens, and {options.size} knows {context} positions"
        raise UserError("--prompt-tokens", options.prompt_tokens, rule, "give fewer, or another --size")


def _forget_peak(device: str) -> None:
    import torch

    from harness.memory import reset_peak_memory

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_memory()


def _peak(device: str) -> float:
    """On the device: what torch has allocated there, or the process's own memory."""
    import torch

    from harness.memory import peak_memory_mb

    return torch.cuda.max_memory_allocated(device) / 1e6 if device.startswith("cuda") else peak_memory_mb()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("limits", __doc__, rounds=3, sizes=REAL_SIZES)
    options.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: the GPU where there is one)")
    options.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="precision of all models (default: auto, which is bf16 on a GPU and where a CPU computes in it)",
    )
    add_names(options, "--stages", STAGES, "stage", "stages to measure")
    add_names(options, "--engines", ENGINES, "engine", "engines whose rollouts are measured")
    options.add_argument(
        "--engine", choices=ENGINES, default="native", help="engine that PPO samples with (default: native)"
    )
    for name, default, about in (
        ("--batch", 128, "rows of a rollout, and episodes of a PPO iteration"),
        ("--minibatch", 32, "episodes of a PPO update, which divide --batch"),
        ("--epochs", 4, "passes of PPO over an iteration's episodes"),
        ("--sft-batch", 16, "texts of an SFT update"),
        ("--steps", 4, "SFT updates in one measurement"),
        ("--prompt-tokens", 512, "tokens of each prompt"),
        ("--response-tokens", 53, "tokens of each response"),
    ):
        options.add_argument(name, type=positive, default=default, metavar="N", help=f"{about} (default: {default})")
    return run(options, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
