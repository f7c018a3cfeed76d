"""Every command at the smallest size: it runs, what must hold does, and its files hold what it printed.

A process takes seconds to import what it runs. So the sides and the sweep's runs are in this one here, and one test of
each shows that a process of its own does the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import command, limits, loop, lora_memory, materials, our_side, rollout, scale, sweep, update, worker
from benchmarks.sides import Side
from benchmarks.sizes import SIZES, Size
from benchmarks.trl_environment import TRL
from harness import cli
from harness.errors import RunFailed, UserError
from harness.models import static_decoding

Command = Callable[[list[str]], int]


@pytest.fixture
def ask(work: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """(command, arguments) -> its JSON, after it has ended with one of the statuses and drawn its picture.

    ``size``: whether it asks for the smallest.
    """

    def run(main: Command, *arguments: str, statuses: tuple[int, ...] = (0,), size: bool = True) -> dict[str, Any]:
        files = ["--to", str(tmp_path / "found.json"), "--picture", str(tmp_path / "found.svg")]
        made = ["--size", "micro", "--work", str(work)] if size else []
        assert main([*made, "--threads", "1", *files, *arguments]) in statuses
        assert (tmp_path / "found.svg").read_text().startswith("<svg")
        found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
        return found

    return run


class Beside:
    """A side in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.stages, self.versions = our_side.load(), worker.versions()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def ask(self, stage: str, *, save: Path | None = None, **details: Any) -> dict[str, Any]:
        request = {"stage": stage, "save": None if save is None else str(save), **details}
        return {"import_seconds": 0.0, "import_memory_mb": 1.0, **worker.answer(self.stages, request)}


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {figure["name"]: figure for figure in found["figures"]}


@pytest.mark.extended
def test_loop_against_itself(ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Side", Beside)
    # In so few updates of so small a model not everything is learned; that it was not fails no other check.
    found = ask(loop.main, "--rounds", "2", "--against", "self", statuses=(0, 1))
    assert all(held for sentence, held in found["checks"].items() if "void" not in sentence)
    assert sum("equal work" in sentence for sentence in found["checks"]) == 3
    assert found["details"]["versions"]["ours"]["torch"].startswith("2.")
    assert {"SFT", "reward model", "PPO", "PPO: peak memory", "PPO: above imports"} <= set(figures(found))
    for stage in loop.STAGES:
        learned = found["details"][stage]["learned"]
        assert learned["ours"] == learned["theirs"]  # the same code and seeds: the same models, bit for bit
    assert len(set(found["details"]["ppo"]["learned"]["ours"])) == 2  # and another seed gives another one
    first = found["details"]["sft"]["measurements"]["ours"][0]
    assert first["seen"] == {"updates": 2, "tokens": first["work"] - 8, "learning_rate": 1e-3}
    pairs = found["details"]["reward_model"]["measurements"]["ours"][0]["seen"]
    assert pairs == {"updates": 2, "pairs": 8, "tokens": 8 * 2 * 112, "learning_rate": 1e-3}
    seen = found["details"]["ppo"]["measurements"]["ours"][0]["seen"]
    counts = {"updates": 16, "episodes": 8, "tokens": 8 * 48, "rows_learned_from": 32}
    assert {name: seen[name] for name in counts} == counts
    assert 2 * 4 * 65 <= first["work"] <= 2 * 4 * 128
    assert first["peak_memory_mb"] > 50


def test_rollout(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask(rollout.main, "--rounds", "1", "--batch", "6")
    assert len(found["checks"]) == 4
    assert figures(found)["greedy, until EOS"]["ratio"]["median"] > 0
    assert set(figures(found)["sampled, full length: against the products"]["values"]) == {"ours", "products"}


def test_rollout_by_compiled_steps(ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)
    found = ask(rollout.main, "--rounds", "1", "--batch", "6", "--engine", "compiled")
    assert found["settings"]["engine"] == "compiled"
    assert len(found["checks"]) == 4


def test_rollout_in_bf16_is_checked_greedy_too(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask(rollout.main, "--rounds", "1", "--batch", "6", "--precision", "bf16")
    assert any(sentence.startswith("greedy") for sentence in found["checks"])


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_a_sampler_of_another_temperature_is_found_out(work: Path, temperature: float) -> None:
    """With lengths that are the same whatever is sampled; the right one passes."""
    case = rollout.cases(Namespace(size="micro", work=work, batch=64))[1]._replace(ends=False)
    right = rollout.likelihood(case, rollout.ours(case, "fp32", "native")(0))
    theirs = rollout.likelihood(case, rollout.generate(case, "fp32")(0))
    wrong = rollout.likelihood(case, rollout.ours(case._replace(temperature=temperature), "fp32", "native")(0))
    for exact in (True, False):
        assert rollout.check_sampled(right, theirs, exact=exact)
        assert not rollout.check_sampled(wrong, theirs, exact=exact)
        assert not rollout.check_sampled(right, wrong, exact=exact)


def test_likelihood_of_tokens_is_what_a_pass_over_one_row_says(work: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    case = rollout.cases(Namespace(size="micro", work=work, batch=3))[1]
    responses = [[5, 7], [9], [3, 3, 4]]
    model = AutoModelForCausalLM.from_pretrained(case.folder).eval()
    logprobs = []
    for prompt, response in zip(case.prompts, responses, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0]
        for step, token in enumerate(response):
            logprobs.append(float(torch.log_softmax(logits[len(prompt) - 1 + step] / 0.7, -1)[token]))
    assert rollout.likelihood(case, responses, rows=2).logprob == pytest.approx(sum(logprobs) / 6, rel=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [([[1, 2]], [[1, 2]], 1.0), ([[1, 2]], [[3, 2]], 0.0), ([[1]], [[1, 2]], 0.5), ([[1, 2]], [[1]], 0.5)],
)
def test_tokens_after_a_first_difference_are_not_equal(
    ours: list[list[int]], theirs: list[list[int]], share: float
) -> None:
    assert rollout.equal_share(ours, theirs) == share


@pytest.mark.parametrize(
    ("responses", "most_short", "shortfall", "exact", "passes"),
    [
        ([[1, 2], [3]], 0.0, 0.0, True, True),
        ([[1, 4], [3]], 5e-5, 3e-5, True, True),  # a near tie, which sums in another order decide
        ([[1, 4], [3]], 2e-4, 1e-4, True, False),
        ([[1], [3]], 0.0, 0.0, True, False),  # the likeliest tokens, and too few of them
        ([[4, 2], [3]], 0.1, 0.01, False, True),
        ([[4, 2], [3]], 0.1, 0.03, False, False),
        ([[1, 2], [3]], 0.1, 0.03, False, True),
    ],
)
def test_greedy_tokens_are_the_same_but_for_near_ties(
    responses: list[list[int]], most_short: float, shortfall: float, exact: bool, passes: bool
) -> None:
    found = rollout.Likelihood(-6.0, 0.1, 0.0, 0.1, shortfall, most_short)
    assert rollout.check_greedy(responses, [[1, 2], [3]], found, exact=exact) is passes


def test_greedy_tokens_are_no_less_likely_than_others_and_sampled_ones_are(work: Path) -> None:
    case = rollout.cases(Namespace(size="micro", work=work, batch=8))[-1]
    greedy = rollout.ours(case, "fp32", "native")(0)
    assert rollout.likelihood(case, greedy, rows=3).most_short <= rollout.NEAR_TIE
    sampled = rollout.likelihood(case, rollout.ours(case._replace(temperature=0.7), "fp32", "native")(0))
    assert sampled.most_short > sampled.shortfall > rollout.ROUNDING


ROLLOUTS_ALONE = ("--device", "cpu", "--stages", "rollout", "--rounds", "1", "--batch", "8", "--minibatch", "8")
KINDS = ("sampled", "greedy")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_limits_hold_where_both_engines_answer_as_generate_does(
    ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)
    found = ask(
        limits.main, *ROLLOUTS_ALONE, "--prompt-tokens", "10", "--response-tokens", "16", "--precision", precision
    )
    names = [sentence.split(":")[0] for sentence in found["checks"]]
    assert names == [f"rollout, {engine}, {kind}" for kind in KINDS for engine in limits.ENGINES]
    assert set(found["details"]["likelihood"]) == set(names)


@pytest.mark.parametrize("wrong", KINDS)
def test_limits_do_not_hold_where_one_engine_answers_otherwise(
    ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """One engine chooses greedily where it should sample, or samples where it should choose greedily."""
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)

    def faulty(case: rollout.Case, precision: str, engine: str) -> Callable[[int], rollout.Responses]:
        if engine == "compiled" and (wrong == "sampled") == (case.temperature > 0):
            case = case._replace(temperature=0.7 if wrong == "greedy" else 0.0)
        return rollout.ours(case, precision, engine)

    monkeypatch.setattr(limits, "ours", faulty)
    found = ask(
        limits.main,
        *ROLLOUTS_ALONE,
        "--prompt-tokens",
        "10",
        "--response-tokens",
        "16",
        "--precision",
        "fp32",
        statuses=(1,),
    )
    failed = [sentence.split(":")[0] for sentence, held in found["checks"].items() if not held]
    assert failed == [f"rollout, compiled, {wrong}"]


@pytest.mark.extended
def test_limits(ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_decoding, "compiled_step", lambda _device: static_decoding.step)
    few = ["--rounds", "1", "--batch", "4", "--minibatch", "2", "--sft-batch", "2", "--steps", "1"]
    found = ask(limits.main, "--device", "cpu", "--prompt-tokens", "10", "--response-tokens", "6", *few)
    assert len(found["checks"]) == 2 * len(limits.ENGINES) + 1
    measured = figures(found)
    shares = [measured[f"PPO: {phase}"]["values"]["ours"][0] for phase in our_side.PHASES]
    assert 90 < sum(shares) < 100  # of the time on the wall, which has more than its phases
    for engine in limits.ENGINES:
        speed = measured[f"rollout, {engine}"]["values"][engine][0]
        share = measured[f"rollout, {engine}: of the bandwidth's bound"]["values"][engine][0]
        assert share == pytest.approx(100 * speed / found["details"]["rollout"]["bound_tokens_per_second"])
    tokens = 2 * 1 * 16
    speed, share = (measured[name]["values"]["ours"][0] for name in ("SFT", "SFT: of the matrix rate"))
    rate = found["details"]["sft"]["matrix_flops_per_second"]
    assert share == pytest.approx(100 * found["details"]["sft"]["flops"] / rate * speed / tokens)


def test_bytes_and_flops_of_a_model_that_is_counted_by_hand() -> None:
    """Two layers of width 8, an embedding of 5 tokens that the output layer shares, and one that it does not."""
    from torch import nn

    size = Size(layers=2, width=8, heads=1, vocab_size=5, words=1)
    asked = Namespace(size=size, options=Namespace(precision="bf16"))

    class Model(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            self.embedding, self.layer, self.head = nn.Embedding(5, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 5)
            self.head.bias = None
            if shared:
                self.head.weight = self.embedding.weight

        def get_input_embeddings(self) -> Any:
            return self.embedding

        def get_output_embeddings(self) -> Any:
            return self.head

    for shared in (True, False):
        model: Any = Model(shared)
        assert limits.multiplied_weights(model) == 40 + 64
        cached = 2 * 2 * 8 * 3 * (10 + 1 + 10 + 2)  # keys and values, layers, width, rows, tokens after either step
        assert limits.bytes_read(asked, model, rows=3, prompt=10, tokens=2) == 2 * (2 * (40 + 64) + cached)
        assert limits.training_flops(asked, model, tokens=30, length=10) == 30 * (6 * (40 + 64) + 12 * 2 * 8 * 10)


def test_greedy_responses_end_at_different_times(work: Path) -> None:
    case = rollout.cases(Namespace(size="micro", work=work, batch=12))[-1]
    responses = rollout.generate(case, "fp32")(0)
    assert len({len(response) for response in responses}) > 5
    assert sum(response[-1] == 0 for response in responses) > 6


def test_products_follow_the_lengths(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of every product: all prompts' tokens first, then one per response that still goes on; the head likewise."""
    case = rollout.Case("", work, [[2] * 5, [2] * 3], 4, 0.0, ends=True)
    run = rollout.products(case, Size(layers=1, width=4, heads=1, vocab_size=7, words=1), [1, 3], "fp32")
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(rollout, "multiply", lambda a, b, out: seen.append((a.shape[0], b.shape[0])))
    run()
    layer = (12, 4, 16, 4)
    steps = [(8, layer), (2, (7,)), (1, layer), (1, (7,)), (1, layer), (1, (7,))]
    assert seen == [(rows, wide) for rows, widths in steps for wide in widths]


def test_update(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask(update.main, "--rounds", "1", "--batch", "4", "--steps", "1")
    first = found["details"]["first_step"]
    for norm in ("grad_norm", "value_grad_norm"):
        assert first["ours"][norm] == pytest.approx(first["plain"][norm], rel=1e-4)
    assert max(found["details"][f"{network}_weights_apart"] for network in ("policy", "value")) < 1e-3
    assert first["ours"]["entropy"] == pytest.approx(first["plain"]["entropy"], rel=1e-5)


def test_updates_that_differ_do_not_agree() -> None:
    ours = {"policy_loss": 0.0, "value_loss": 1.0, "entropy": 5.0, "grad_norm": 2.0, "value_grad_norm": 3.0}
    assert update.agree(ours, ours, tolerance=1e-3)
    for name in ours:
        assert not update.agree(ours, {**ours, name: ours[name] + 0.1}, tolerance=1e-3)


def test_weights_that_went_another_way_are_apart() -> None:
    import torch

    start, plain = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}
    assert update.apart(plain, plain, start) == 0
    assert update.apart(start, plain, start) == 1
    assert update.apart({"w": torch.tensor([3.0, 3.0])}, plain, start) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="by name"):
        update.apart({"v": torch.zeros(2)}, plain, start)


@pytest.mark.extended
def test_sweep(
    ask: Callable[..., dict[str, Any]], in_process: Callable[..., Callable[..., int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = in_process(cli.main)
    monkeypatch.setattr(sweep, "harness", lambda typed: run(*typed))
    small = ["experiment=smoke", "judge=none", "data.sizes={sft: 64, preference: 32, judge: 16, rl: 64}"]
    small += ["evaluation.fixed_rows=[]", "sft.epochs=1"]
    found = ask(sweep.main, "--rounds", "1", "--candidates", "2", *small, size=False)
    assert found["checks"] == {"round 1: the same metrics both ways": True}
    assert set(figures(found)) == {"2 candidates", "one candidate more"}


def test_a_run_of_the_sweep_is_a_process_whose_failure_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"(?s)^harness sft\.epochs=0 task=qa .*ended with status 2:.*sft\.epochs=0"):
        sweep.harness(["sft.epochs=0", "task=qa", f"output_dir={tmp_path}"])


@pytest.mark.extended
def test_scale_runs_every_point(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At this size nothing is measured, so the limits may or may not hold."""
    monkeypatch.setattr(scale, "Side", Beside)
    given = ["--size", "micro", "--threads", "1", "--work", str(work), "--rounds", "1", "--prompts", "8", "--no-larger"]
    assert scale.main([*given, "--to", str(tmp_path / "scale.json")]) in (0, 1)
    found = json.loads((tmp_path / "scale.json").read_text())
    measurements = found["details"]["measurements"]
    assert {name: rows[0]["work"] for name, rows in measurements.items()} == {
        "base": 8,
        "10 times the prompts": 80,
        "twice the response": 8,
        "twice the batch": 8,
    }
    assert len(found["checks"]) == 2


@pytest.mark.parametrize(
    ("main", "wrong"),
    [
        (loop.main, ["--rounds", "0"]),
        (loop.main, ["--stages", "dpo"]),
        (loop.main, ["--picture", "x.png"]),
        (loop.main, ["--size", "huge"]),
        *((loop.main, ["--scale", value]) for value in ("0", "-1", "nan", "inf", "half")),
        (loop.main, ["--their-rollout-batch", "0"]),
        (loop.main, ["--their-loss", "dft"]),
        (rollout.main, ["--batch", "0"]),
        (rollout.main, ["--batch", "1.5"]),
        (update.main, ["--steps", "-1"]),
        (limits.main, ["--epochs", "0"]),
        (scale.main, ["--prompts", "12"]),
        (scale.main, ["--prompts", "many"]),
        (sweep.main, ["--size", "tiny"]),
        (sweep.main, ["--work", "here"]),
        (sweep.main, ["--candidates", "9"]),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    main: Command, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("error:") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--batch", "6", "--minibatch", "4"], "error: --minibatch=4 does not divide --batch=6; "),
        (["--prompt-tokens", "250", "--response-tokens", "7"], "error: --prompt-tokens=250 leaves no room "),
    ],
)
def test_sizes_that_do_not_fit_are_one_message_and_status_2(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert limits.main(["--size", "micro", *wrong]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == 1


@pytest.mark.parametrize("module", [loop, rollout, update, sweep, scale, limits, lora_memory])
def test_help_says_every_option_with_its_default(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(module, "run", lambda options, *_, **__: made.append(options))
    module.main([])
    for option in made[0]._actions:
        assert option.help
        assert option.help in (argparse.SUPPRESS, "show this help message and exit") or "(default: " in option.help


@pytest.mark.extended
def test_a_side_is_a_process_that_answers_until_it_fails(work: Path, tmp_path: Path) -> None:
    size = SIZES["micro"]
    base = materials.base_model(work / "micro", size)
    rows = materials.write_rows(tmp_path / "rows.json", materials.Materials(base, size).demonstrations(4, seed=1))
    request = {"model": str(base), "rows": str(rows), "batch_size": 2, "lr": 1e-3, "precision": "fp32", "seed": 1}
    here = Beside().ask("sft", **request)
    with Side(sys.executable, "benchmarks.our_side", threads=1, log=tmp_path / "log.txt") as side:
        there = side.ask("sft", save=tmp_path / "saved", **request)
        with pytest.raises(RunFailed, match="KeyError: 'dance'"):
            side.ask("dance")
    assert {name: there[name] for name in ("seen", "work", "loss")} == {
        name: here[name] for name in ("seen", "work", "loss")
    }
    assert side.versions == worker.versions()
    assert there["import_seconds"] > 0 < there["import_memory_mb"] < there["peak_memory_mb"]
    assert (tmp_path / "saved" / "config.json").is_file()


def test_work_that_differs_in_one_count_of_one_round_is_not_equal() -> None:
    seen = {"updates": 2, "tokens": 100, "learning_rate": 1e-3}
    measured = {"ours": [{"seen": seen}, {"seen": seen}], "trl": [{"seen": seen}, {"seen": seen}]}
    sentence, same = loop.equal_work("SFT", measured)
    assert same
    assert "updates 2, tokens 100, learning rate 0.001" in sentence
    for other in ({**seen, "tokens": 99}, {**seen, "learning_rate": 5e-4}, {"updates": 2}, {}):
        sentence, same = loop.equal_work("SFT", {**measured, "trl": [{"seen": seen}, {"seen": other}]})
        assert not same
        assert "round 2" in sentence


@pytest.mark.parametrize(("versions", "said"), [({"trl": "1.11.0"}, "has trl 1.11.0; "), ({}, "has no trl; ")])
def test_another_trl_is_refused_before_it_is_imported(tmp_path: Path, versions: dict[str, str], said: str) -> None:
    """A Python that says its versions and waits."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps({'versions': versions})}'\nread line\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match=f"^--trl-python={python} {said}.*1.12.0"):
        Side(python, "benchmarks.trl_side", threads=1, log=tmp_path / "log.txt", requires={"trl": TRL})
    with pytest.raises(UserError, match="cannot be started"):
        Side(tmp_path / "none", "benchmarks.trl_side", threads=1, log=tmp_path / "log.txt")


def test_what_is_made_is_kept_for_the_same_code_and_versions_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = command.made_folder(tmp_path, "tiny")
    assert kept == command.made_folder(tmp_path, "tiny") != command.made_folder(tmp_path, "small")
    command._making.cache_clear()
    monkeypatch.setattr(command.metadata, "version", lambda package: f"{package} of another day")
    assert command.made_folder(tmp_path, "tiny") != kept
    command._making.cache_clear()


@pytest.mark.trl
def test_loop_against_trl(ask: Callable[..., dict[str, Any]]) -> None:
    python = os.environ.get("HARNESS_TRL")
    assert python, "HARNESS_TRL must name the Python of an environment with TRL"
    options = ["--their-loss", "nll", "--their-rollout-batch", "4"]
    found = ask(loop.main, "--rounds", "2", "--trl-python", python, *options, statuses=(0, 1))
    assert found["details"]["versions"]["trl"]["trl"] == TRL
    for stage in loop.STAGES:
        ours, theirs = (found["details"][stage]["measurements"][side] for side in ("ours", "trl"))
        assert [row["work"] for row in ours] == [row["work"] for row in theirs]
        assert [row["seen"] for row in ours] == [pytest.approx(row["seen"]) for row in theirs]


@pytest.mark.extended
def test_lora_memory(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask(lora_memory.main, "--layers", "1", "--width", "64", "--rank", "2", size=False)
    measured = figures(found)
    assert measured["parameters of the policy"]["unit"] == "M"
    trained = measured["trained, policy and value"]["values"]
    assert 0 < trained["lora"][0] < trained["full"][0]
    assert measured["CPU time per iteration"]["values"]["full"][0] > 0
    assert lora_memory.main(["--width", "100"]) == 2
