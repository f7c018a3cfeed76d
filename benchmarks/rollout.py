"""Rollouts: this harness's sampler against transformers' generate, and both against the matrix products alone.

Three cases at one batch: sampled responses that are all as long as the limit, and sampled and greedy ones that end at
different times; evaluation meets the last. The model itself, as transformers computes it in fp32, says whether they may
be compared: sampled tokens must be as likely on both sides as tokens of their temperature are, within sampling error;
greedy tokens must be the same (fp32), or all but the same (bf16), up to near ties.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.command import made_folder, parser, positive, run
from benchmarks.materials import base_model
from benchmarks.report import Figure, Report
from benchmarks.sizes import PROMPT_TOKENS, RESPONSE_TOKENS, SIZES, Size
from benchmarks.timing import Measured, alternate, measure

TEMPERATURE = 0.7
ERRORS = 4.0
"""Standard errors that a mean of sampled tokens may be off."""
ROUNDING = 0.02
"""Nats per token that tokens sampled or chosen in bf16 may be less or more likely, in fp32, than those of fp32."""
EQUAL_IN_BF16 = 0.95
"""Of greedy tokens, the share before each response's first difference."""
NEAR_TIE = 1e-4
"""Nats that a greedy token may be less likely than the likeliest, in fp32: sums in another order move as much."""


class Case(NamedTuple):
    """What is asked of both samplers.

    Args:
        name: of the case.
        folder: the model's.
        prompts: token ids.
        tokens: the length limit.
        temperature: 0 is greedy.
        ends: whether EOS ends a response.
        device: where both samplers work.
    """

    name: str
    folder: Path
    prompts: list[list[int]]
    tokens: int
    temperature: float
    ends: bool
    device: str = "cpu"


Responses = list[list[int]]


def ours(case: Case, precision: str, engine: str) -> Callable[[int], Responses]:
    """seed -> responses by this harness."""
    import torch

    from harness.hardware import Hardware
    from harness.models.loading import load_language_model
    from harness.rollouts.sampler import Sampling, sample

    lm = load_language_model(case.folder, device=case.device)
    hardware = Hardware(case.device, precision, torch.get_num_threads())
    settings = Sampling(case.tokens, temperature=case.temperature, engine=engine)
    ids: dict[str, Any] = {"eos_id": lm.codec.eos_id if case.ends else -1, "pad_id": lm.codec.pad_id}
    return lambda seed: sample(lm.model, case.prompts, settings, **ids, seed=seed, hardware=hardware).tokens


def generate(case: Case, precision: str) -> Callable[[int], Responses]:
    """seed -> responses by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from harness.hardware import Hardware
    from harness.training.masks import left_pad

    model: Any = AutoModelForCausalLM.from_pretrained(case.folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(case.folder, padding_side="left")
    eos_id, pad_id = (tokenizer.eos_token_id if case.ends else None), tokenizer.pad_token_id
    model.generation_config.eos_token_id = eos_id
    chosen = {"do_sample": True, "temperature": case.temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=case.tokens,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        **(chosen if case.temperature else {"do_sample": False}),
    )
    model.to(case.device)
    ids, mask = (tensor.to(case.device) for tensor in left_pad(case.prompts, pad_id))
    context: Callable[[], AbstractContextManager[Any]] = Hardware(case.device, precision, 1).autocast

    def run_once(seed: int) -> Responses:
        torch.manual_seed(seed)
        with torch.inference_mode(), context():
            out = model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=config)
        rows: Responses = out[:, ids.shape[1] :].tolist()
        return [_to_eos(row, eos_id) for row in rows]

    return run_once


def _to_eos(row: list[int], eos_id: int | None) -> list[int]:
    return row[: row.index(eos_id) + 1] if eos_id in row else row


def products(case: Case, size: Size, lengths: Sequence[int], precision: str) -> Callable[[], None]:
    """The matrix products that the case cannot do without: the floor of any sampler.

    fp32 is multiplied by the library that the models here use on this processor.

    Args:
        case: its prompts say how many rows the first pass has.
        size: of the model.
        lengths: of the responses; a row that has ended costs nothing.
        precision: of the matrices.
    """
    import torch

    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    width, first = size.width, sum(map(len, case.prompts))
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    weights = [[torch.randn(shape[::-1]).to(kind) for shape in shapes] for _ in range(size.layers)]
    head = torch.randn(size.vocab_size, width).to(kind)
    inputs = {wide: torch.randn(first, wide).to(kind) for wide in (width, 4 * width)}
    outputs = {shape: torch.empty(first, shape[1], dtype=kind) for shape in shapes}
    logits = torch.empty(len(case.prompts), size.vocab_size, dtype=kind)
    alive = [sum(length > step for length in lengths) for step in range(max(lengths))]

    def layers(rows: int) -> None:
        for layer in weights:
            for shape, weight in zip(shapes, layer, strict=True):
                multiply(inputs[shape[0]][:rows], weight, outputs[shape][:rows])

    def run_once() -> None:
        layers(first)
        for step, rows in enumerate(alive):
            if step:
                layers(rows)
            multiply(inputs[width][:rows], head, logits[:rows])

    return run_once


def multiply(left: Any, right: Any, out: Any) -> None:
    """left · rightᵀ, into ``out`` where the faster library writes there."""
    import torch

    from harness.hardware import prefers_onednn
    from harness.models.kernels import product

    if left.dtype == torch.float32 and prefers_onednn():
        product(left, right)
    else:
        torch.mm(left, right.t(), out=out)


def ending_model(base: Path, target: Path, limit: int) -> Path:
    """The base model, made to end every text soon after position ``limit``: its greedy responses are of known lengths.

    From there on, position embeddings say nothing but EOS. The logits are scaled to be as decided as a trained model's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (target / "config.json").is_file():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(base)
        with torch.no_grad():
            model.transformer.wpe.weight[limit:] = 1000 * model.transformer.wte.weight[tokenizer.eos_token_id]
            model.transformer.ln_f.weight.mul_(8)
        tokenizer.save_pretrained(target)
        model.save_pretrained(target)
    return target


def cases(options: argparse.Namespace) -> list[Case]:
    """Sampled at full length; sampled and greedy with ends."""
    size = SIZES[options.size]
    folder = made_folder(options.work, options.size)
    base, generator = base_model(folder, size), Random(0)
    limit = PROMPT_TOKENS + RESPONSE_TOKENS // 2
    ending = ending_model(base, folder / "ending", limit)

    def prompt(length: int) -> list[int]:
        return [generator.randrange(2, size.vocab_size) for _ in range(length)]  # 0 and 1 are EOS and pad

    equal = [prompt(PROMPT_TOKENS) for _ in range(options.batch)]
    ragged = [prompt(generator.randint(limit - RESPONSE_TOKENS + 1, limit)) for _ in range(options.batch)]
    return [
        Case("sampled, full length", base, equal, RESPONSE_TOKENS, TEMPERATURE, ends=False),
        Case("sampled, until EOS", ending, ragged, RESPONSE_TOKENS, TEMPERATURE, ends=True),
        Case("greedy, until EOS", ending, ragged, RESPONSE_TOKENS, 0.0, ends=True),
    ]


def compare(options: argparse.Namespace) -> Report:
    """All rounds of all cases."""
    from harness.config import HardwareConfig
    from harness.hardware import Hardware

    Hardware.resolve(
        HardwareConfig(device="cpu", threads=options.threads)
    ).prepare()  # freed memory is kept on every side
    report = Report("rollout", {"size": options.size, "batch": options.batch, **_asked(options)}, options.threads)
    company: list[float | None] = []
    for case in cases(options):
        sampler, reference = ours(case, options.precision, options.engine), generate(case, options.their_precision)
        responses, expected = sampler(0), reference(0)  # also the warm-up
        count = sum(map(len, responses))
        exact = options.precision == options.their_precision == "fp32"
        check(report, case, {case.name: responses}, expected, exact=exact)
        floor = products(case, SIZES[options.size], list(map(len, responses)), options.precision)
        floor()
        measured = alternate(_sides(sampler, reference, floor), options.rounds)
        counts = {"ours": count, "generate": sum(map(len, expected)), "products": count}
        speeds = {side: [counts[side] / each.seconds for each in rows] for side, rows in measured.items()}
        floor_speeds = {"ours": speeds["ours"], "products": speeds.pop("products")}
        report.figures += [
            Figure(case.name, "tokens/s", speeds, ("ours", "generate")),
            Figure(f"{case.name}: against the products", "tokens/s", floor_speeds, ("ours", "products")),
        ]
        company += [each.others for rows in measured.values() for each in rows]
    report.note_company(company)
    return report


class Likelihood(NamedTuple):
    """Of the tokens that one side has sampled, under the model at the temperature.

    Args:
        logprob: mean per token.
        logprob_error: its standard error over responses.
        surprise: mean of log p(token) + H(p), whose expectation is 0 where tokens are drawn from p, wherever EOS stops
            them: each term has mean 0 given all tokens before it.
        surprise_error: its standard error: the root of the summed variances of log p(token), over the number of tokens.
        shortfall: mean of max log p - log p(token): 0 where tokens are chosen greedily, but for near ties.
        most_short: the largest of these.
    """

    logprob: float
    logprob_error: float
    surprise: float
    surprise_error: float
    shortfall: float
    most_short: float


def likelihood(case: Case, responses: Responses, *, rows: int = 16) -> Likelihood:
    """Score responses by the model as transformers computes it, in fp32.

    Args:
        case: its model, prompts, device and temperature; greedy tokens are scored at temperature 1.
        responses: one to each prompt.
        rows: at a time.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(case.folder, dtype="float32").eval().to(case.device)
    summed, surprises, variance, short = [], 0.0, 0.0, list[torch.Tensor]()
    for start in range(0, len(responses), rows):
        some = list(zip(case.prompts[start : start + rows], responses[start : start + rows], strict=True))
        longest = max(len(prompt) + len(response) for prompt, response in some)
        # Padding to the right: what is causal does not see it, and positions are as they are.
        padded = [prompt + response + [0] * (longest - len(prompt + response)) for prompt, response in some]
        ids = torch.tensor(padded, device=case.device)
        first = min(len(prompt) for prompt, _ in some) - 1  # no response needs what the model says before it
        with torch.inference_mode():
            logits = model(input_ids=ids, logits_to_keep=longest - first).logits.float()
            logprobs = torch.log_softmax(logits / (case.temperature or 1.0), dim=-1)
        for row, (prompt, response) in enumerate(some):
            begin = len(prompt) - 1 - first
            given = logprobs[row, begin : begin + len(response)].double()
            chosen = given.gather(1, ids[row, len(prompt) : len(prompt) + len(response), None]).squeeze(1)
            mean = (given.exp() * given).sum(1)
            summed.append(float(chosen.sum()))
            surprises += float((chosen - mean).sum())
            variance += float(((given.exp() * given**2).sum(1) - mean**2).sum())
            short.append(given.amax(1) - chosen)
    tokens = sum(map(len, responses))
    logprob = sum(summed) / tokens
    off = sum((each - logprob * len(response)) ** 2 for each, response in zip(summed, responses, strict=True))
    missed = torch.cat(short)
    return Likelihood(
        logprob=logprob,
        logprob_error=off**0.5 / tokens,
        surprise=surprises / tokens,
        surprise_error=variance**0.5 / tokens,
        shortfall=float(missed.mean()),
        most_short=float(missed.max()),
    )


def check_sampled(ours: Likelihood, theirs: Likelihood, *, exact: bool) -> bool:
    """Whether both sides sampled from the model at the temperature, and so alike.

    Args:
        ours, theirs: of the sides' tokens.
        exact: in fp32 on both sides; rounding in bf16 is allowed ``ROUNDING`` nats besides.
    """
    more = 0.0 if exact else ROUNDING
    apart = (ours.logprob_error**2 + theirs.logprob_error**2) ** 0.5
    right = all(abs(side.surprise) <= ERRORS * side.surprise_error + more for side in (ours, theirs))
    return right and abs(ours.logprob - theirs.logprob) <= ERRORS * apart + more


def equal_share(responses: Responses, expected: Responses) -> float:
    """Share of all expected tokens that come before the first difference of their response.

    >>> equal_share([[1, 2, 3, 4], [5, 6]], [[1, 2, 9, 4], [5, 6]])
    0.6666666666666666
    """
    equal = 0
    for one, other in zip(responses, expected, strict=True):
        same = [a == b for a, b in zip(one, other, strict=False)]
        equal += same.index(False) if False in same else len(same)
    return equal / max(sum(map(len, expected)), sum(map(len, responses)))


def check_greedy(responses: Responses, expected: Responses, ours: Likelihood, *, exact: bool) -> bool:
    """Whether one side's greedy tokens are the other's, but for near ties, after which both may say other things.

    Args:
        responses, expected: both sides' tokens.
        ours: of ``responses``: each must be the likeliest token after those before it.
        exact: in fp32 on both sides: a near tie is within ``NEAR_TIE``. bf16 decides more of them: there nearly all
            tokens must be the same, or what is chosen within ``ROUNDING`` of the likeliest in the mean.
    """
    if exact:
        alike = list(map(len, responses)) == list(map(len, expected))
        return responses == expected or (alike and ours.most_short <= NEAR_TIE)
    return equal_share(responses, expected) >= EQUAL_IN_BF16 or ours.shortfall <= ROUNDING


def check(report: Report, case: Case, sides: Mapping[str, Responses], expected: Responses, *, exact: bool) -> None:
    """Add to the report whether sampled tokens are as likely as the model says, and greedy ones its likeliest.

    Args:
        report: gets a check for each side, and under ``likelihood`` in its details the numbers.
        case: what was asked of all.
        sides: what the check is called -> responses by this harness.
        expected: generate's.
        exact: in fp32 on both sides.
    """
    theirs = likelihood(case, expected)
    other = sum(map(len, expected)) / len(expected)
    for name, responses in sides.items():
        ours, mean = likelihood(case, responses), sum(map(len, responses)) / len(responses)
        found = {"ours": ours._asdict(), "generate": theirs._asdict()}
        report.details.setdefault("likelihood", {})[name] = found
        if case.temperature and case.ends:
            sentence = f"{name}: {mean:.1f} tokens per response, {other:.1f} by generate"
            report.checks[sentence] = abs(mean - other) <= 0.1 * other
        numbers = f"{ours.logprob:.4f} and {theirs.logprob:.4f} nats per token"
        if case.temperature:
            off = f"{ours.surprise:+.4f} and {theirs.surprise:+.4f} from what the temperature gives"
            sentence = f"{name}: tokens as likely on both sides, {numbers}, {off}"
            report.checks[sentence] = check_sampled(ours, theirs, exact=exact)
        else:
            share = f"{100 * equal_share(responses, expected):.1f} % of the tokens before a first difference"
            short = f"at most {ours.most_short:.1g} nats below the likeliest, {ours.shortfall:.1g} in the mean"
            sentence = f"{name}: the model's likeliest tokens on both sides, {share}, {short}"
            report.checks[sentence] = check_greedy(responses, expected, ours, exact=exact)


def _sides(
    sampler: Callable[[int], Responses], reference: Callable[[int], Responses], floor: Callable[[], None]
) -> dict[str, Callable[[], Measured]]:
    return {
        "ours": lambda: measure(lambda: sampler(0))[1],
        "generate": lambda: measure(lambda: reference(0))[1],
        "products": lambda: measure(floor)[1],
    }


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("rounds", "engine", "precision", "their_precision")}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("rollout", __doc__, rounds=7)
    options.add_argument(
        "--batch", type=positive, default=128, help="number of prompts, sampled together (default: 128)"
    )
    options.add_argument(
        "--engine", choices=("native", "compiled"), default="native", help="engine of our sampler (default: native)"
    )
    options.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="precision of our sampler and of the products (default: fp32)",
    )
    options.add_argument(
        "--their-precision", choices=("fp32", "bf16"), default="fp32", help="precision of generate (default: fp32)"
    )
    return run(options, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
