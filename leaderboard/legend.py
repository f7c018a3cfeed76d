"""What each column says, and what the numbers do not say."""

from __future__ import annotations

from harness.leaderboard.rows import TASK_METRICS

METRICS = {
    "bleu": "BLEU (sacrebleu, corpus level, 0-100)",
    "rouge1": "ROUGE-1 F1: single words shared with the reference (0-100)",
    "rouge2": "ROUGE-2 F1: word pairs shared with the reference (0-100)",
    "rougeL": "ROUGE-L F1: longest common subsequence with the reference (0-100)",
    "rougeLsum": "ROUGE-Lsum F1: ROUGE-L sentence by sentence (0-100)",
    "chrf": "chrF: character n-grams shared with the reference (0-100)",
    "exact_match": "Exact match after SQuAD normalisation (0-100)",
    "f1": "Token F1 after SQuAD normalisation (0-100)",
    "distinct1": "Share of distinct words among all words of all responses (0-100)",
    "distinct2": "Share of distinct word pairs among all pairs of all responses (0-100)",
    "gold": "The controlled world's own reward, read from the latent facts, never from the references",
}

COLUMNS = {
    "rank": "Within a task, by win_rate_reference. Rows that the intervals do not separate share a rank.",
    "task": "What was asked.",
    "candidate": "The set-up's name, or its overrides. Controls are the fixed rows that keep candidates honest.",
    "model": "The model that training started from.",
    "algorithm": "How the policy was optimised against the reward.",
    "feedback": "Where preference pairs came from.",
    "judge": "The judge that scored win rates. No candidate is ever optimised against it.",
    "data": "Where prompts and references came from.",
    "seeds": "Training seeds that succeeded, of those that ran.",
    "status": "ok, unchanged (no output changed), collapsed (stopped at a limit; best checkpoint scored), failed.",
    "flags": "What to know before reading the row. over-optimised: gold fell while the judge's win rate rose.",
    "n_examples": "Test prompts.",
    "win_rate": "After against before, by the judge. A change within the row: it never ranks. 50 is an even match.",
    "win_rate_reference": "After against the references, by the judge. 50 is an even match. This ranks.",
    "win_rate_lc": "win_rate with the effect of length taken out. Empty where lengths do not vary.",
    "win_rate_proxy": "win_rate by the candidate's own optimised reward model: not independent evidence.",
    "win_rate_gold": "win_rate by the gold reward.",
    "proxy_before": "Mean score of SFT responses by the optimised reward model.",
    "proxy_after": "Mean score of final responses by the optimised reward model.",
    "kl": "KL of the final policy from SFT, summed over the response, in nats, at the training temperature.",
    "length_before": "Mean response length of SFT, in tokens, EOS included.",
    "length_after": "Mean response length of the final policy, in tokens, EOS included.",
    "repetition_before": "Share of 4-grams in an SFT response that stood in it before; mean over responses (0-100).",
    "repetition_after": "Share of 4-grams in a final response that stood in it before; mean over responses (0-100).",
    "eos_before": "Share of SFT responses that ended by themselves (0-100).",
    "eos_after": "Share of final responses that ended by themselves (0-100).",
    "rm_accuracy": "The optimised reward model's accuracy on held-out pairs (0-100).",
    "judge_accuracy": "The judge's accuracy on held-out pairs (0-100).",
    "wall_seconds": "Sum over the stages as first run, cached or not; mean over the seeds that succeeded, if any did.",
    "device": "Where it ran.",
    "peak_memory_mb": "Peak memory of the process or on the GPU, in MB of 10⁶ bytes; the largest of stages and seeds.",
    "signatures": "How each metric was computed. Numbers with other signatures must not be compared.",
    "fingerprint": "Of the evaluation, one per seed.",
    "git_commit": "The code's commit.",
    "run_ids": "The records behind the row.",
}

CELLS = {
    "before": "of the SFT policy.",
    "after": "of the final policy; for a control, of the control.",
    "delta": "after minus before.",
    "delta_low": "lower end of the 95 % interval of the paired difference.",
    "delta_high": "upper end of the 95 % interval of the paired difference.",
}

CAVEATS = (
    "With one seed an interval covers the choice of test prompts only, not what another training seed would give. "
    "It is then marked “prompt-level”. With two or more seeds it is a t interval over the seeds, on the same prompts.",
    "BLEU, ROUGE, chrF, F1 and distinct-n measure overlap or variety, not truth or helpfulness.",
    "The judge is a reward model. It never saw the optimised reward model's training pairs, but a bias that annotators "
    "share is in both. Only gold or people reveal it.",
    "win_rate depends on how weak the row's own SFT was; win_rate_reference can be compared between rows.",
    "Intervals are 95 % each, not corrected for how many rows and columns are looked at.",
    "Rows with another judge, other data, another task version or another metric signature are not ranked together.",
    "The generated worlds show whether an algorithm does what it should where truth is known, "
    "not how it does on natural text.",
)


def explain(column: str) -> str:
    """One sentence about a column; empty for what an extra metric measures, which only its author can say.

    >>> explain("gold_delta_low").endswith("lower end of the 95 % interval of the paired difference.")
    True
    """
    if column in COLUMNS:
        return COLUMNS[column]
    for rate in ("win_rate_reference", "win_rate"):
        for end, words in (("low", "Lower"), ("high", "Upper")):
            if column == f"{rate}_{end}":
                return f"{words} end of the 95 % interval of {rate}."
    for cell in sorted(CELLS, key=len, reverse=True):
        if column.endswith(f"_{cell}"):
            metric = column.removesuffix(f"_{cell}")
            return f"{METRICS.get(metric, f'Extra metric {metric}')}: {CELLS[cell]}"
    return METRICS.get(column, "")


def decimals(column: str) -> int:
    """How many decimals a column is shown with: its scale's resolution, not more."""
    if column.startswith(("win_rate", "eos", "rm_accuracy", "judge_accuracy", "length", *TASK_METRICS)):
        return 1
    return 0 if column in ("rank", "n_examples", "wall_seconds", "peak_memory_mb") else 2
