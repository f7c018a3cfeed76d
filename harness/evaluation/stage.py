"""The evaluation stage: one row of the table, scored on the test prompts and compared with what came before it.

A fixed row and a candidate are scored alike; a candidate is also compared with the SFT row and the references row,
whose outputs and scores it reads from their own evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from harness.context import Job
from harness.data.prepared import PreparedData
from harness.data.prompts import CutReport
from harness.evaluation.answers import (
    best_of_n,
    draw,
    gold_scores,
    policy_answers,
    prompt_tokens,
    text_answers,
    text_outputs,
)
from harness.evaluation.compare import compare
from harness.evaluation.curves import best_of_n_curve, probe_curve
from harness.evaluation.registry import load_metric, metrics_for
from harness.evaluation.text_quality import text_quality
from harness.evaluation.wins import compare_scores, length_controlled_win_rate, win_rate
from harness.models.kept import load_kept_scorer, load_policy
from harness.models.loading import LanguageModel, load_language_model
from harness.models.scorer import Scorer
from harness.stages import Finished, Workspace
from harness.training.probes import sequence_kl
from harness.training.sft import base_directory
from harness.types import Example, Outputs

VERSION = 11
TEXT_ROWS = ("references", "copy-input", "empty", "longest")
"""Fixed rows that need no model: once per task and data."""
CORRELATION_EXAMPLES = 500
"""Test prompts on which the correlation of gold with BLEU is measured."""


class Scored:
    """One row's outputs with every per-example score that does not depend on another row."""

    def __init__(
        self,
        outputs: Outputs,
        judge: np.ndarray | None,
        gold: dict[str, np.ndarray],
        judge_cuts: CutReport | None = None,
    ) -> None:
        self.outputs, self.judge, self.gold = outputs, judge, gold
        self.judge_cuts = judge_cuts
        """What was cut of the test prompts for the judge, whose tokens are its own."""

    @classmethod
    def read(cls, evaluation: Finished) -> Scored:
        """What the evaluation of an earlier row found."""
        rows = read_lines(evaluation.directory / "samples.jsonl")
        outputs = Outputs(
            [row["after"] for row in rows], [row["after_tokens"] for row in rows], [row["after_ended"] for row in rows]
        )
        scores = [row["scores"] for row in rows]
        judge = np.array([score["judge_after"] for score in scores]) if "judge_after" in scores[0] else None
        names = [key.removesuffix("_after") for key in scores[0] if key.startswith("gold") and key.endswith("_after")]
        return cls(outputs, judge, {name: np.array([score[f"{name}_after"] for score in scores]) for name in names})


class Answers(NamedTuple):
    """What a row answered.

    Args:
        outputs: one response per test prompt.
        prompts: as the row's model read them; None for a row without a model.
        extra: what else its evaluation measured, for the summary.
        scored: the outputs with their scores, where these are known already.
    """

    outputs: Outputs
    prompts: list[str] | None = None
    extra: Mapping[str, Any] = MappingProxyType({})
    scored: Scored | None = None


def run_evaluation(workspace: Workspace, job: Job, row: str | None) -> dict[str, Any]:
    """Score one fixed row, or the candidate; ``samples.jsonl`` keeps every per-example number.

    Args:
        workspace: of the stage; its inputs decide what the row is compared with.
        job: the set-up.
        row: the fixed row's name; None: the candidate.
    Returns: what the record takes over, see ``summarise``; of a candidate with its status, flags and curves.
    """
    data = job.data(workspace)
    examples = data.splits["test"]
    job.require_test_prompts(examples)
    judge = load_judge(workspace, job)
    with workspace.progress.stage(f"evaluation of {row or 'candidate'}", 3, "parts") as bar:
        if row in TEXT_ROWS:
            codec = judge.codec if judge is not None else None
            answers = Answers(text_answers(job, str(row), examples, data.splits, codec))
        elif "answers" in workspace.inputs:
            answers = _endpoint_answers(workspace, judge)
        else:
            answers = _model_answers(workspace, job, row, data, judge)
        outputs = answers.outputs
        bar.update(1)
        scored = answers.scored or score(job, examples, outputs, judge)
        before = Scored.read(workspace.inputs["sft_row"]) if row is None and "sft_row" in workspace.inputs else None
        references = Scored.read(workspace.inputs["references_row"]) if row != "references" else scored
        bar.update(1)
        summary = summarise(workspace, job, examples, scored, before, references)
        if before is not None:
            summary = _with_candidate(workspace, job, examples, scored, before, judge, summary)
        elif row is None:
            flags = [*workspace.inputs["answers"].summary["flags"], *_flags(summary, judge)]
            summary = {**summary, "status": "ok", "reason": None, "flags": flags}
        bar.update(1)
    prompts = answers.prompts or [job.task.prompt(example.fields) for example in examples]
    _write_samples(workspace, examples, prompts, scored, before, summary.pop("per_example"))
    if scored.judge_cuts is not None:
        summary["judge_test_cuts"] = scored.judge_cuts._asdict()
    return {**summary, **answers.extra, "line": _line(job, summary)}


def load_judge(workspace: Workspace, job: Job) -> Scorer | None:
    """The judge, or None where there is none."""
    finished = workspace.inputs.get("judge")
    if finished is None or not finished.summary["available"]:
        return None
    return load_kept_scorer(finished.directory, job.config.judge.model, job.hardware)


def optimised_reward(workspace: Workspace, job: Job, policy: LanguageModel) -> Scorer | None:
    """The optimised reward model, which reads the policy's tokens, or None where there is none."""
    finished = workspace.inputs.get("reward_model")
    if finished is None:
        return None
    return load_kept_scorer(finished.directory, job.config.model, job.hardware, policy=policy)


def score(job: Job, examples: Sequence[Example], outputs: Outputs, judge: Scorer | None) -> Scored:
    """Judge and gold scores of one row's outputs; the judge reads them in its own tokens, without any EOS penalty.

    Args:
        job: with the task and, on a controlled world, gold.
        examples: N of them.
        outputs: the row's N responses.
        judge: None: there is none, and no score by it.
    """
    judged = cuts = None
    if judge is not None:
        prompts, cuts = job.prompts(examples, judge.codec)
        judged = judge.score_texts(prompts, outputs.responses, ended=outputs.ended)
    return Scored(outputs, judged, gold_scores(job, examples, outputs.responses), cuts)


def summarise(
    workspace: Workspace,
    job: Job,
    examples: Sequence[Example],
    after: Scored,
    before: Scored | None,
    references: Scored,
) -> dict[str, Any]:
    """Metrics with intervals, win rates by the judge and by gold, and the quality of the texts.

    Args:
        workspace: of the evaluation.
        job: with the metrics and the bootstrap's settings.
        examples: N test examples.
        after: the row's N responses, with their scores.
        before: those of the SFT policy; None for a fixed row: no change and no win rate against it.
        references: those of the row ``references``.
    Returns: ``metrics``, ``win_rates``, ``scalars`` and ``n_examples``, as the record has them, and ``per_example``:
        name -> ``before`` and ``after``, N numbers each or None.
    """
    generator = np.random.default_rng(job.config.evaluation.seed)
    drawing: dict[str, Any] = {
        "clusters": job.prompt_labels(examples),
        "resamples": job.config.evaluation.resamples,
        "generator": generator,
    }
    compared = compare(
        None if before is None else before.outputs,
        after.outputs,
        [example.references or [example.response] for example in examples],
        metrics=metrics_for(job.config.task.metrics, job.config.evaluation.extra_metrics),
        extra={name: (None if before is None else before.gold[name], values) for name, values in after.gold.items()},
        **drawing,
    )
    wins: dict[str, Any] = dict.fromkeys(("judge", "reference", "lc", "proxy", "gold"))
    if after.judge is not None and references.judge is not None:
        wins["reference"] = _interval(
            win_rate(after.judge, references.judge, same(after.outputs, references.outputs), **drawing)
        )
    if before is not None:
        equal = same(after.outputs, before.outputs)
        if after.judge is not None and before.judge is not None:
            wins["judge"] = _interval(win_rate(after.judge, before.judge, equal, **drawing))
            lengths = _lengths(after.outputs) - _lengths(before.outputs)
            wins["lc"] = length_controlled_win_rate(compare_scores(after.judge, before.judge, equal), lengths)
        if after.gold:
            wins["gold"] = float(100 * compare_scores(after.gold["gold"], before.gold["gold"], equal).mean())
    if job.world is not None:
        for name in after.gold:  # rows scored by another version of the world are not ranked together
            compared.metrics[name]["signature"] = f"world:{job.world.name}|v{job.world.version}|agg:mean"
    return {
        "metrics": compared.metrics,
        "per_example": compared.per_example,
        "win_rates": wins,
        "scalars": _quality("after", after.outputs)
        | (_quality("before", before.outputs) if before is not None else {}),
        "n_examples": len(examples),
    }


def same(first: Outputs, second: Outputs) -> np.ndarray:
    """(N,) bool, True where two rows gave equal responses: a tie without asking."""
    return np.array(
        [
            a == b and x == y
            for a, b, x, y in zip(first.responses, second.responses, first.ended, second.ended, strict=True)
        ]
    )


def _endpoint_answers(workspace: Workspace, judge: Scorer | None) -> Answers:
    """What an endpoint said, in the judge's tokens (words where there is none): its own are not known here."""
    replies = read_lines(workspace.inputs["answers"].directory / "answers.jsonl")
    texts, ended = [reply["text"] for reply in replies], [reply["finish_reason"] == "stop" for reply in replies]
    return Answers(text_outputs(texts, ended, judge.codec if judge is not None else None))


def _model_answers(
    workspace: Workspace, job: Job, row: str | None, data: PreparedData, judge: Scorer | None
) -> Answers:
    """The outputs of a row with a model, and what else its evaluation measures."""
    seed, examples = workspace.seed_for("answers"), data.splits["test"]
    policy = _policy(workspace, job, row)
    prompts, cuts = job.prompts(examples, policy.codec)
    extra: dict[str, Any] = {"test_cuts": cuts._asdict()}
    if row == "best-of-n":
        reward = optimised_reward(workspace, job, policy)
        assert reward is not None  # this row is there where it is
        reranked = best_of_n(job, policy, reward, examples, job.config.evaluation.best_of_n, seed=seed)
        held_out = data.splits["validation"][: job.config.evaluation.curve_prompts]
        extra["curves"] = best_of_n_curve(job, policy, reward, judge, held_out, seed=workspace.seed_for("curve"))
        clusters = job.prompt_labels(examples)
        best, first = (score(job, examples, each, judge) for each in reranked)
        extra["best_of_n_gain"] = _gain(job, best, first, clusters)
        return Answers(reranked.best, prompts, extra, best)
    if row == "sft" and job.world is not None:
        extra["gold_bleu_correlation"] = _gold_bleu_correlation(job, policy, examples[:CORRELATION_EXAMPLES], seed)
    return Answers(policy_answers(job, policy, examples, seed=seed), prompts, extra)


def _policy(workspace: Workspace, job: Job, row: str | None) -> LanguageModel:
    """The model that a row answers with."""
    inputs, model, device = workspace.inputs, job.config.model, job.hardware.device
    if row == "base":
        base = load_language_model(
            base_directory(inputs["sft"].directory, model),
            device=device,
            revision=model.revision,
            quantization=model.quantization,
        )
        if model.chat:
            base.codec.converse(model.system)
        return base
    trained = {"best-of-n": "sft", None: "algorithm"}.get(row, str(row))
    return load_policy(inputs[trained].directory, model, device=device)


def _gold_bleu_correlation(job: Job, policy: LanguageModel, part: Sequence[Example], seed: int) -> float | None:
    """Pearson correlation of gold with sentence BLEU over samples: near 1, the two would be one measurement."""
    rollout = draw(job, policy, prompt_tokens(job, policy.codec, part), job.training_sampling(), seed)
    texts = policy.codec.decode(rollout.tokens)
    bleu = load_metric("bleu").scored(texts, [example.references for example in part])["bleu"].per_example
    gold = gold_scores(job, part, texts)["gold"]
    varied = bleu.std() > 0 and gold.std() > 0
    return float(np.corrcoef(gold, bleu)[0, 1]) if varied else None


def _gain(job: Job, best: Scored, first: Scored, clusters: Sequence[str]) -> dict[str, Any] | None:
    """Best-of-n against one sample, under the judge: part of the reward model's report card."""
    if best.judge is None or first.judge is None:
        return None
    evaluation = job.config.evaluation
    generator = np.random.default_rng(evaluation.seed)
    equal = same(best.outputs, first.outputs)
    drawing: dict[str, Any] = {"clusters": clusters, "resamples": evaluation.resamples, "generator": generator}
    interval = win_rate(best.judge, first.judge, equal, **drawing)
    return {"n": evaluation.best_of_n, "win_rate": _interval(interval)}


def _with_candidate(
    workspace: Workspace,
    job: Job,
    examples: Sequence[Example],
    after: Scored,
    before: Scored | None,
    judge: Scorer | None,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Add what only a candidate has: proxy scores, KL, curves, status and flags."""
    assert before is not None
    inputs, device = workspace.inputs, job.hardware.device
    model = job.config.model
    policy = load_policy(inputs["algorithm"].directory, model, device=device)
    sft = load_policy(inputs["sft"].directory, model, device=device, beside=policy)
    reward = optimised_reward(workspace, job, sft)
    prompts = prompt_tokens(job, sft.codec, examples)
    sampling = job.training_sampling()
    rollout = draw(job, policy, prompts, sampling, workspace.seed_for("kl"))
    kl = sequence_kl(policy, sft, prompts, rollout, sampling, job)
    equal = same(after.outputs, before.outputs)
    summary["scalars"]["kl"] = float(kl.mean())
    summary["per_example"]["kl"] = {"after": kl.tolist()}
    if reward is not None:
        rows = {"before": before, "after": after}
        proxy = {name: reward.scores(prompts, row.outputs.tokens) for name, row in rows.items()}
        summary["win_rates"]["proxy"] = float(100 * compare_scores(proxy["after"], proxy["before"], equal).mean())
        summary["scalars"] |= {f"proxy_{name}": float(values.mean()) for name, values in proxy.items()}
        summary["per_example"]["proxy"] = {name: values.tolist() for name, values in proxy.items()}
    trained = inputs["algorithm"].summary
    status = "unchanged" if bool(equal.all()) and trained["status"] == "ok" else trained["status"]
    kept = inputs["algorithm"].directory / "probes.jsonl"
    probes = read_lines(kept) if kept.is_file() else []  # none where the policy came finished
    curves = probe_curve(job, probes, judge, job.data(workspace).splits["validation"])
    flags = [*trained["flags"], *_flags(summary, judge)]
    return {**summary, "curves": curves, "status": status, "reason": trained["reason"], "flags": flags}


def _flags(summary: Mapping[str, Any], judge: Scorer | None) -> list[str]:
    gold, judged = summary["metrics"].get("gold"), summary["win_rates"]["judge"]
    flags = [] if judge is not None else ["no judge"]
    falls = gold is not None and gold["high"] is not None and gold["high"] < 0
    if falls and judged is not None and judged["low"] > 50:
        flags.append("over-optimised")
    return flags


def _quality(suffix: str, outputs: Outputs) -> dict[str, float]:
    quality = text_quality(outputs)
    return {
        f"length_{suffix}": float(quality.length.mean()),
        f"repetition_{suffix}": float(100 * quality.repetition.mean()),
        f"eos_{suffix}": float(100 * quality.eos.mean()),
    }


def _lengths(outputs: Outputs) -> np.ndarray:
    return np.array([len(tokens) for tokens in outputs.tokens], dtype=float)


def _interval(interval: Any) -> dict[str, float]:
    return {"value": interval.estimate, "low": interval.low, "high": interval.high}


def _write_samples(
    workspace: Workspace,
    examples: Sequence[Example],
    prompts: Sequence[str],
    after: Scored,
    before: Scored | None,
    per_example: Mapping[str, Mapping[str, Sequence[float] | None]],
) -> None:
    """One line per test prompt, with every number that was measured on it."""
    base_row = workspace.inputs.get("base_row") if before is not None else None
    base = Scored.read(base_row).outputs.responses if base_row is not None else None
    columns: dict[str, Sequence[float]] = {}
    for name, values in per_example.items():
        for side in ("before", "after"):
            column = values.get(side)
            if column is not None:
                columns[f"{name}_{side}"] = column
    for side, row in (("before", before), ("after", after)):
        if row is not None and row.judge is not None:
            columns[f"judge_{side}"] = row.judge.tolist()
    with (workspace.directory / "samples.jsonl").open("w", encoding="utf-8") as file:
        for index, example in enumerate(examples):
            line = {
                "id": example.id,
                "prompt": prompts[index],
                "references": example.references,
                "base": None if base is None else base[index],
                "before": None if before is None else before.outputs.responses[index],
                "after": after.outputs.responses[index],
                "after_tokens": after.outputs.tokens[index],
                "after_ended": after.outputs.ended[index],
                "scores": {name: float(column[index]) for name, column in columns.items()},
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _line(job: Job, summary: Mapping[str, Any]) -> str:
    parts = []
    for name in (job.config.task.main_metric, "gold"):
        metric = summary["metrics"].get(name)
        if metric is not None:
            ends = "" if metric["low"] is None else f" [{metric['low']:+.2f}, {metric['high']:+.2f}]"
            change = "" if metric["delta"] is None else f" ({metric['delta']:+.2f}{ends})"
            parts.append(f"{name} {metric['after']:.2f}{change}")
    judged = summary["win_rates"]["judge"] or summary["win_rates"]["reference"]
    if judged is not None:
        against = "SFT" if summary["win_rates"]["judge"] is not None else "references"
        parts.append(f"wins {judged['value']:.1f} % against {against}")
    return ", ".join(parts)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
