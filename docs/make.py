"""Writes what follows from the code: ``configuration.md``, ``table.md``, and the file tree in the README.

Run ``python docs/make.py`` after a change to ``harness/config.py``, ``conf/`` or the table's columns, and for a new
file; a test compares.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.config import SCHEMAS, Config, register_schemas
from harness.leaderboard import reward_models
from harness.leaderboard.legend import CAVEATS, CELLS, METRICS, explain
from harness.leaderboard.rows import METRIC_CELLS, SCALARS, TASK_METRICS
from harness.leaderboard.table import FIRST_COLUMNS, PROVENANCE_COLUMNS, WIN_RATE_COLUMNS
from harness.usage import group_options

ROOT = Path(__file__).parent.parent
TREE_BEGINS, TREE_ENDS = "<!-- file tree: python docs/make.py -->\n```\n", "```\n<!-- end of file tree -->"

INTRODUCTION = """# Configuration

Every key that `python -m harness` reads. Set one as `key=value`; choose an option of a group as `group=option`; name a
new entry of a mapping as `data.columns.source=text`; write a list as `[a,b]` and nothing as `null`; sweep over values
with `-m` and commas. A key, type or value that does not fit is refused before any work, with exit status 2.

The default is what `python -m harness task=…` uses where no group is chosen; "by task" where the tasks differ (see
`conf/task/`, `conf/settings/data/` for what the controlled worlds set, and `conf/settings/model/` for `nano`).
`python -m harness task=qa --help` shows the values of any set-up.

This page is made by `python docs/make.py`.
"""

OVERLAYS = """Whole set-ups, which hold only what differs from the defaults: {}.

What an experiment sets of PPO stands in `conf/settings/NAME/ppo.yaml` and applies with `algorithm=ppo`, given or by
default; with `algorithm=none` and `algorithm=load algorithm.path=DIR` the rest of the set-up stays. Keys on the command
line come last. Several overlays, `experiment=[A,B]`, apply from left to right.
"""

TABLE = """# The tables' columns

What each column of `leaderboard.csv` and `reward_bench.csv` says, in their order. Both lie in `output_dir/leaderboard`,
beside `leaderboard.md` and `index.html`, which show a part of them. An empty cell is a number that does not apply or is
not known. [record.md](record.md) says what lies behind a row.

This page is made by `python docs/make.py` from the texts that the HTML page shows.
"""

METRICS_INTRODUCTION = """Five columns for each metric that some row has: those of the task, then those of
`evaluation.extra_metrics`, then `gold` on controlled worlds. They hold the metric
"""

FOLDERS = {
    "harness": "what does the work",
    "harness/api": "models behind an endpoint (model=api)",
    "harness/data": "where examples come from",
    "harness/models": "models, tokenizers, forward passes",
    "harness/rollouts": "sampling",
    "harness/feedback": "who prefers what",
    "harness/training": "SFT, reward model, judge, algorithms",
    "harness/evaluation": "scores, comparisons, intervals",
    "harness/evaluation/metrics": "the built-in metrics, each an evaluate module",
    "harness/reward_bench": "reward models on files of preferences (python -m harness.reward_bench)",
    "tasks": "one file per task (imported as harness.tasks)",
    "tasks/worlds": "the controlled worlds",
    "leaderboard": "records to table (imported as harness.leaderboard)",
    "benchmarks": "against other systems, plain code and itself (not in the wheel)",
}

GROUPS = {
    "task": "What is asked.",
    "data": "Where examples come from.",
    "model": "The base model.",
    "sft": "Supervised fine-tuning: base model to policy.",
    "feedback": "Prompts and responses to preference pairs.",
    "reward_model": "Bradley–Terry training from the SFT policy.",
    "judge": "The reward model that scores the table and is never optimised against.",
    "algorithm": "How the policy is optimised. All have the first four keys, `load` has `path`; the others are PPO's.",
    "rollout": "How responses are sampled in training.",
    "evaluation": "How policies are scored.",
    "hardware": "Where it runs.",
    "tracker": "What is shown while it runs.",
    "hub": "Model cards, and what goes to the Hugging Face hub.",
}

BENCH_GROUPS = {
    "data": "Which preferences.",
    "scorer": "Who is examined.",
}
"""Groups of keys that the reward bench has of its own; it shares `task`, `hardware` and `tracker`."""

OPTION_SCHEMAS = {
    "data_controlled": ("data", "controlled"),
    "data_local": ("data", "local"),
    "data_hub": ("data", "hub"),
    "model_api": ("model", "api"),
    "algorithm_load": ("algorithm", "load"),
}
"""Schemas with keys that one option of a group has, and others do not."""

MEANINGS: dict[str, dict[str, str]] = {
    "RewardBenchConfig": {
        "candidate": "Name of the row; by default the reward model's.",
        "output_dir": "Where stages, records and the leaderboard go.",
        "resamples": "Bootstrap resamples.",
        "best_of_n": "Values of n whose gain is measured, where prompts have so many responses.",
        "leaderboard": "Function that rebuilds the leaderboard from records.",
    },
    "PreferenceFileConfig": {
        "name": "Name in the table; by default the file's.",
        "pairs_path": "File of preferences.",
        "pairs_columns": "Our name -> column, as in training; `subset` names a column whose values part the pairs.",
        "max_bad_rows": "Unusable rows that are put up with; they are counted and shown.",
        "transcript_speakers": "The two names in transcripts, the answering side's second.",
        "limit": "Most pairs, chosen by a hash of their ids.",
    },
    "ScorerConfig": {
        "kind": "`classifier` (a sequence classifier with one label) or `judge` (a generative one behind an endpoint).",
        "path": "classifier: folder, or hub id.",
        "revision": "classifier: branch, tag or commit on the hub.",
        "format": "classifier: the `task`'s wording, the tokenizer's `chat` template, or `auto`: chat if it has one.",
        "max_tokens": "classifier: longer texts are cut, prompts by the task's rule; null: as far as positions go.",
        "batch_size": "classifier: texts at a time.",
        "name": "judge: the endpoint's name for it.",
        "base_url": "judge: the endpoint's address, without `/chat/completions`.",
        "criterion": "judge: the sentence that says what makes an answer the better one.",
        "answer_tokens": "judge: length limit of its answers; one that reasons first needs more.",
    },
    "Config": {
        "seed": "Seed of all training; the data have their own.",
        "candidate": "Name of the set-up in the table; by default the sorted overrides that tell candidates apart.",
        "output_dir": "Where stages, records and the leaderboard go.",
        "plan": "Show what would run, and stop.",
    },
    "TaskConfig": {
        "_target_": "Class of the task.",
        "name": "Name in records and in the table.",
        "template": "Prompt, with the task's fields in braces.",
        "metrics": "Columns of metrics, built-in names.",
        "main_metric": "The one of `metrics` that is shown first.",
        "max_prompt_tokens": "Longer prompts are cut by the task's rule; the cut share is in the record.",
        "max_response_tokens": "Length limit of all responses, EOS included.",
        "world": "Class of the controlled world that `data=controlled` draws from.",
        "options": "Further arguments of the task's class.",
    },
    "DataConfig": {
        "source": "`controlled`, `local` or `hub`.",
        "name": "Name in the table; by default the folder's or the repository's.",
        "seed": "Fixes world, splits and test prompts.",
        "sizes": "Controlled: examples per split.",
        "shares": "Rows: how train rows are shared out, by a hash of the prompt.",
        "references": "Controlled: references per prompt, at most as many as the world has for each.",
        "path": "Local: file, glob, or folder with train, validation and test files. Hub: `organisation/name`.",
        "files": "Rows: split -> file or glob, relative to `path`, where names do not say it.",
        "columns": "Rows: our name -> column of the files.",
        "pairs_path": "Rows: file with preference pairs; hub: or a repository.",
        "pairs_columns": "Rows: our name -> column of the pairs' file.",
        "limits": "Rows: split -> most examples.",
        "max_bad_rows": "Rows: unusable rows per file that are put up with; they are counted and shown.",
        "max_turns": "Rows: turns of context, where whole dialogues are taken apart.",
        "workers": "Processes that generate or read; the data do not depend on it.",
    },
    "APIModelConfig": {"base_url": "api: the endpoint's address, without `/chat/completions`."},
    "APIConfig": {
        "protocol": "`chat` (messages) or `completions` (text to be continued).",
        "system": "chat: a system message before the prompt.",
        "options": "Further fields of the request; null removes one.",
        "key_variable": "Environment variable that holds the key, where the endpoint asks for one.",
        "concurrency": "Requests at a time.",
        "requests_per_minute": "Most requests a minute; null: no limit of our own.",
        "timeout_seconds": "Longest wait for an answer.",
        "max_attempts": "Attempts per request; what cannot pass is not tried again.",
        "backoff_seconds": "Wait before the second attempt, give or take; doubled for each further one.",
        "max_wait_seconds": "Longest wait between attempts; an endpoint that asks for more ends the run.",
        "prompt_price": "Per million tokens of prompts, for the cost in the record.",
        "response_price": "Per million tokens of answers.",
    },
    "ControlledDataConfig": {
        "mixture": "Controlled: style of demonstrations -> share, in place of the world's own mixture.",
    },
    "CleaningConfig": {
        "normalise": "Rows: one form of Unicode (NFC) and of line ends, no invisible characters.",
        "drop_empty": "Rows: drop and count rows in which a text is missing; else they are bad rows.",
        "max_prompt_chars": "Rows: drop and count rows with a longer prompt.",
        "max_response_chars": "Rows: drop and count rows with a longer response.",
        "deduplicate": "Rows: drop train rows that repeat prompt and response (`rows`), a prompt (`prompts`), or none.",
    },
    "LocalDataConfig": {
        "cleaning": "What is set right or dropped, and counted.",
        "max_rows": "Rows: file split (or `pairs`) -> rows that are read, from the start.",
        "transcript_speakers": "Rows: the two names in transcripts, the answering side's second.",
    },
    "HubDataConfig": {
        "config": "Hub: configuration of the repository, where it has several.",
        "revision": "Hub: branch, tag or commit; the commit that it stands for is recorded.",
        "splits": "Hub: our split (train, validation, test) -> theirs, also sliced (`train[:1000]`).",
        "streaming": "Hub: read rows as they arrive, without a copy on disk.",
        "pairs_config": "Hub: configuration of the pairs' repository.",
        "pairs_revision": "Hub: its revision.",
        "pairs_split": "Hub: its split.",
    },
    "ModelConfig": {
        "kind": "`nano` (made here), `hf` (loaded) or, for a policy, `api` (asked).",
        "name": "hf: folder or hub id; api: the endpoint's name for it.",
        "revision": "hf: branch, tag or commit on the hub.",
        "architecture": "nano: `gpt2` or `llama`.",
        "layers": "nano: transformer blocks.",
        "width": "nano: hidden size; a multiple of `heads`.",
        "heads": "nano: attention heads.",
        "chat": "hf: prompts in the tokenizer's chat template, a dialogue's turns as messages.",
        "system": "hf: with `chat`, a system message before every prompt.",
        "vocab_size": "nano: most tokens of the tokenizer, trained on what the model learns from; at least 258.",
        "context": "nano: positions; at least prompt and response limit together.",
        "lora": "Adapters in place of full fine-tuning.",
        "quantization": "hf: `8bit` or `4bit` base weights under an adapter; needs a GPU and bitsandbytes.",
    },
    "LoraConfig": {
        "rank": "Train adapters of this rank on a frozen base (docs/lora.md); null: train all weights.",
        "alpha": "An adapter's contribution is scaled by `alpha` / `rank`.",
        "dropout": "Share of an adapter's inputs dropped in SFT and in the reward model's training; never in RL.",
        "target_modules": "Layers that get one, by the last part of their names; null: all linear layers in the model.",
        "merge": "Save whole models, adapters beside them; `false`: adapters alone, which name their base.",
    },
    "OptimizerConfig": {
        "kind": "`adamw`, or `muon` for the matrices inside the layers (all else: AdamW), when training from nothing.",
        "lr": "Peak learning rate.",
        "weight_decay": "Decoupled weight decay.",
        "eps": "AdamW's epsilon.",
        "schedule": "`linear` or `cosine` to 0, or `constant`.",
        "warmup": "Share of the updates in which the rate rises from 0.",
        "max_grad_norm": "Gradients are clipped to this norm.",
    },
    "SFTConfig": {
        "source": "`train`, or `load` a finished policy.",
        "path": "load: folder of the policy.",
        "epochs": "Passes over the demonstrations; may be a fraction. 3 but on controlled worlds.",
        "max_steps": "Most updates.",
        "batch_size": "Demonstrations per update.",
        "micro_batch_size": "Demonstrations per forward pass; the gradient does not depend on it. null: all; on a "
        "CPU so few that graphs stay small (memory.md), and two passes at a time.",
        "train_on_prompt": "Count the prompt's tokens in the loss too.",
        "packing": "Lay the demonstrations of a forward pass end to end; each sees itself alone. An update has the "
        "same demonstrations and weights of tokens either way. Slower on a CPU (docs/performance.md). Not for "
        "encoder–decoder models.",
        "packed_tokens": "packing: most tokens of such a row (null: `task.max_prompt_tokens` + "
        "`task.max_response_tokens`). It may pass the model's context, since positions begin anew.",
    },
    "FeedbackConfig": {
        "kind": "`gold`, `metric` or `pairs`.",
        "samples_per_prompt": "Responses per prompt, two to a comparison; more where prompts are few. Where more pairs "
        "are wanted than there are prompts, four are drawn at a time and matched into two comparisons.",
        "sampling_temperature": "Of those responses.",
        "max_pairs": "Pairs to train on.",
        "heldout_pairs": "Fresh pairs from validation prompts, for the report card.",
        "min_pairs": "Fewer informative pairs end the run.",
        "max_attempts": "Rounds in which uninformative comparisons are drawn anew.",
        "temperature": "Divides utility differences: larger makes labels more random.",
        "indifference": "Differences of utility up to this are not noticed: the pair is a tie, and dropped.",
        "noise": "Share of labels that are flipped.",
        "length_bias": "Added to the perceived utility per word of a response, in units of the temperature.",
        "metric": "metric: `bleu`, `chrf`, `f1`, `gleu`, `rougeL`, or the mean of several (`chrf+gleu`); null: "
        "`f1` where the task reports it, else `chrf`.",
    },
    "RewardModelConfig": {
        "source": "`train`, or `load` a finished reward model.",
        "path": "load: folder of the reward model; it may have a tokenizer of its own.",
        "epochs": "Passes over the pairs; may be a fraction.",
        "batch_size": "Pairs per update.",
        "micro_batch_size": "Pairs per forward pass; the gradient does not depend on it. null: as for SFT.",
        "margin": "Margin in the Bradley–Terry loss.",
        "centering": "Weight of the squared sum of both scores.",
        "scale_scores": "Divide scores by their standard deviation on references, besides the shift.",
        "balance_length": "Train on as many pairs whose chosen response is k words and marks longer as k shorter.",
    },
    "AnnotatorConfig": {
        "temperature": "Divides utility differences: larger makes labels more random.",
        "indifference": "Differences of utility up to this are not noticed: the pair is a tie, and dropped.",
        "noise": "Share of labels that are flipped.",
        "length_bias": "Added to the perceived utility per word of a response, in units of the temperature.",
        "metric": "On real data, samples: `bleu`, `chrf`, `f1`, `gleu`, `rougeL`, or the mean of several; null: `f1` "
        "where the task reports it, else `chrf`.",
    },
    "JudgeConfig": {
        "source": "`train`, `load` a finished judge, or `none`.",
        "path": "load: folder of the judge.",
        "seed": "The judge's own seed, the same for all candidates.",
        "responses": "What it compares: the world's `mixture`, the data set's `pairs`, or `samples` of its backbone.",
        "samples_per_prompt": "Responses per prompt, two to a comparison; more where prompts are few.",
        "max_pairs": "Pairs to train on.",
        "heldout_pairs": "Fresh pairs from validation prompts, for its report card.",
        "min_pairs": "With fewer there is no judge, and its cells stay empty.",
        "sft_epochs": "Passes of its backbone over the judge split. 0.5 but on controlled worlds.",
        "epochs": "Passes over the pairs.",
        "batch_size": "Pairs per update.",
    },
    "AlgorithmConfig": {
        "_target_": "Class of the algorithm.",
        "name": "Name in the table.",
        "episodes": "Responses to sample in all; a multiple of `batch_size`.",
        "prompt_splits": "Splits whose prompts it samples responses to: of `rl`, `preference`, `sft`.",
    },
    "FinishedPolicyConfig": {
        "path": "load: folder of the finished policy.",
    },
    "PPOConfig": {
        "batch_size": "Responses per rollout.",
        "minibatch_size": "Responses per update; divides `batch_size`.",
        "micro_batch_size": "Responses per forward pass, in updates and where reference and values are read; neither "
        "gradients nor these depend on it. null: `minibatch_size`, in updates on a CPU fewer where graphs are large.",
        "epochs": "Passes over each rollout: 2 on controlled worlds, else 4.",
        "kl_coef": "β: what a nat of KL from the SFT policy costs.",
        "clip_range": "ε of the clipped ratio.",
        "entropy_coef": "Weight of the entropy bonus.",
        "missing_eos_penalty": "Taken from the score of a response that does not end; null: nothing.",
    },
    "KLControlConfig": {
        "target": "Adaptive β: KL per response to steer to, in nats; null: β stays.",
        "horizon": "Adaptive β: responses over which it adapts.",
        "estimator": "Of the KL in the reward: `k1`, or `k3` (never negative, biased).",
    },
    "AdvantageConfig": {
        "gamma": "Discount.",
        "lam": "λ of generalised advantage estimation.",
        "whiten_rewards": "Whiten rewards before it.",
    },
    "ValueConfig": {
        "kind": "`separate` network from the reward model, or a `head` on the policy.",
        "coef": "Weight of the value loss.",
        "clip_range": "How far a value may move in one rollout.",
        "lr": "Learning rate of a separate network; null: the policy's.",
    },
    "ChecksConfig": {
        "skip_gates": "Gates to skip: accuracy, ratio, invariance, eos, logprobs. The row is flagged.",
        "probes": "Measurements on held-out prompts, spread evenly; 0: none: a collapsed run is scored as it ended.",
        "probe_prompts": "Prompts of each.",
    },
    "LimitsConfig": {
        "max_kl": "Collapsed above this KL per response, in nats.",
        "min_entropy": "Collapsed below this entropy per token, in nats.",
        "min_length": "Collapsed below this mean length, in tokens.",
        "max_length_share": "Collapsed above this mean length, as a share of the limit.",
        "min_score": "Collapsed below this mean score.",
    },
    "RolloutConfig": {
        "temperature": "Of training samples; β and the ratio are measured at it.",
        "top_k": "Sample among the k likeliest tokens; 0: all.",
        "top_p": "Sample among the likeliest tokens of this mass; 1: all.",
        "batch_size": "Responses sampled at a time; they do not depend on it. 256 but with `nano`.",
        "engine": "What samples in training, feedback and best-of-n: `native`, `compiled` or `vllm` (performance.md).",
        "engine_memory": "vllm: share of a GPU's memory that it takes.",
    },
    "EvaluationConfig": {
        "temperature": "Of test responses; 0: greedy.",
        "batch_size": "Responses at a time.",
        "engine": "What answers the test prompts: `native`, `compiled` or `vllm`.",
        "resamples": "Bootstrap resamples.",
        "seed": "Of the bootstrap.",
        "best_of_n": "n of the fixed row best-of-n.",
        "fixed_rows": "Controls to score; references and sft always are.",
        "extra_metrics": "Names or paths of further `evaluate` modules.",
        "curve_prompts": "Validation prompts of the best-of-n curve.",
        "curve_best_of": "Its values of n.",
        "samples_in_record": "Test prompts whose answers the record keeps.",
        "leaderboard": "Function that rebuilds the leaderboard from records.",
    },
    "HardwareConfig": {
        "device": "`auto`, `cpu`, `cuda` or `cuda:0`.",
        "precision": "`fp32`, `bf16` (autocast; weights stay fp32) or `auto`: bf16 on CUDA and on a CPU "
        "with instructions for it (AVX512-BF16, AMX), else fp32.",
        "threads": "CPU threads of each process; null: half of the cores, beside a GPU all. Results depend on it in "
        "the last digits.",
        "workers": "Stages at a time, each in a process of its own; null: 2 on a CPU of two cores or more whose jobs "
        "run one after the other, else 1. Above 1, PPO's value network learns beside the policy, and halves of other "
        "batches run beside each other, while no other stage has the cores. Results do not depend on it.",
    },
    "HubConfig": {
        "push": "Push the models when the job is done. The token is the one of `hf auth login` or HF_TOKEN.",
        "repo": "push: repository, as `owner/name`; for parts other than `algorithm` their name is added to it.",
        "parts": "push: which models, of `sft`, `reward_model`, `judge`, `algorithm`.",
        "private": "push: make the repository private where it is new.",
        "license": "Licence in the model cards; by default that of the model which it comes from, if its card says.",
    },
    "TrackerConfig": {
        "mode": "`rich`, `plain` or `quiet`.",
        "log_file": "Also write everything here, with times.",
    },
}


def pages() -> dict[Path, str]:
    """Path -> the text that it should hold."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(TREE_BEGINS)
    _, end, after = rest.partition(TREE_ENDS)
    return {
        ROOT / "docs" / "configuration.md": configuration(),
        ROOT / "docs" / "table.md": columns(),
        readme: f"{before}{TREE_BEGINS}{file_tree()}{end}{after}",
    }


def file_tree() -> str:
    """One line for each source file: its path below the folder, and the first sentence of its docstring."""
    lines: list[str] = []
    for folder, about in FOLDERS.items():
        lines.append(f"{folder + '/':<36}{about}")
        for path in sorted((ROOT / folder).glob("*.py")):
            sentence = _first_sentence(path)
            if sentence:
                lines.append(f"    {path.name:<32}{sentence}")
    return "\n".join(lines) + "\n"


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?: |$)", paragraph)[0].replace("``", "")


def configuration() -> str:
    """The page of configuration keys."""
    register_schemas()
    configs = [_composed(f"task={task}") for task in group_options()["task"]]
    parts = [INTRODUCTION, "## Without a group\n", _table([row for row in _rows(Config, "", configs) if row])]
    schemas = {**SCHEMAS, "algorithm": SCHEMAS["algorithm_ppo"]}
    rows = {group: list(_rows(schemas[group], f"{group}.", configs)) for group in GROUPS}
    for name, (group, option) in OPTION_SCHEMAS.items():
        known = {row[0] for row in rows[group]}
        of_option = [_composed(f"{group}={option}")]
        rows[group] += [row for row in _rows(SCHEMAS[name], f"{group}.", of_option) if row[0] not in known]
    for group, about in GROUPS.items():
        options = ", ".join(f"`{option}`" for option in group_options()[group])
        parts += [f"## {group}\n", f"{about} Options: {options}.\n", _table(rows[group])]
    overlays = [f"`{group}={option}`" for group in ("experiment", "sweep") for option in group_options().get(group, [])]
    parts += ["## Overlays\n", OVERLAYS.format(", ".join(overlays))]
    return "\n".join([*parts, *_bench()])


def _bench() -> list[str]:
    """The keys of `python -m harness.reward_bench` that are its own."""
    from harness.reward_bench.config import RewardBenchConfig

    register_schemas({"reward_bench": RewardBenchConfig})
    configs = [_composed("task=dialogue", "reward_bench")]
    made = RewardBenchConfig()
    own = [row for row in _rows(RewardBenchConfig, "", configs) if "." not in row[0]]
    overlays = ", ".join(f"`pairs={option}`" for option in group_options(bench=True)["pairs"])
    parts = [
        "## The reward bench\n",
        "Keys of `python -m harness.reward_bench`, besides those of `task`, `hardware` and `tracker` above. "
        f"Ready mappings of public sets: {overlays}.\n",
        _table(own),
    ]
    for group, about in BENCH_GROUPS.items():
        parts += [f"### {group}\n", f"{about}\n", _table(_rows(type(getattr(made, group)), f"{group}.", configs))]
    return parts


def _composed(override: str, name: str = "config") -> Any:
    from hydra import compose, initialize_config_module

    with initialize_config_module("harness.conf", version_base="1.3"):
        return compose(name, overrides=[override])


def _rows(schema: type, prefix: str, configs: list[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of a schema's fields, those of nested schemas included."""
    nested = {name: type(value) for name, value in vars(schema()).items() if type(value).__name__ in MEANINGS}
    nested |= {"model": SCHEMAS["model"]} if prefix == "judge." else {}
    for field in fields(schema):
        if schema.__name__ in ("Config", "RewardBenchConfig") and field.name in SCHEMAS:
            continue
        key = f"{prefix}{field.name}"
        if field.name in nested:
            yield from _rows(nested[field.name], f"{key}.", configs)
            continue
        yield key, str(field.type).replace(" | None", " or null"), _default(key, configs), _meaning(schema, field.name)


def _meaning(schema: type, name: str) -> str:
    for kind in schema.__mro__:
        if name in MEANINGS.get(kind.__name__, {}):
            return MEANINGS[kind.__name__][name]
    raise KeyError(f"{schema.__name__}.{name} has no meaning in MEANINGS")


def _default(key: str, configs: list[Any]) -> str:
    from omegaconf import DictConfig, ListConfig, OmegaConf

    found = [OmegaConf.select(config, key) for config in configs]
    if any(value != found[0] for value in found):
        return "by task"
    value: Any = found[0]
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value)
        text = (
            ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else ", ".join(map(str, value))
        )
        return f"`{{{text}}}`" if isinstance(value, dict) else f"`[{text}]`"
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def columns() -> str:
    """The page of the tables' columns."""
    metrics = [(_five(name), METRICS[name]) for name in (*TASK_METRICS, "gold")]
    metrics.insert(-1, (_five("EXTRA"), "What the metric's author says of it"))
    bench = {
        "What was examined": reward_models.FIRST,
        "What was found": reward_models.MEASURED,
        "Where some row has them": ("best_of_N_gain", "best_of_N_gain_low", "best_of_N_gain_high", "accuracy[SUBSET]"),
        "Where it comes from": reward_models.LAST,
    }
    parts = [
        TABLE,
        "## Policies: `leaderboard.csv`\n",
        *_section("What the row is", [(f"`{name}`", explain(name)) for name in FIRST_COLUMNS]),
        "### Metrics\n",
        METRICS_INTRODUCTION,
        "\n".join(f"- `_{cell}`: {CELLS[cell]}" for cell in METRIC_CELLS) + "\n",
        _columns_table(metrics),
        *_section("Win rates", [(f"`{name}`", explain(name)) for name in WIN_RATE_COLUMNS]),
        *_section("Reward, KL, texts, reward models", [(f"`{name}`", explain(name)) for name in SCALARS]),
        *_section("Where it comes from", [(f"`{name}`", explain(name)) for name in PROVENANCE_COLUMNS]),
        "### What the numbers do not say\n",
        "\n".join(f"- {caveat}" for caveat in CAVEATS) + "\n",
        "## Reward models: `reward_bench.csv`\n",
    ]
    for title, names in bench.items():
        parts += _section(title, [(f"`{name}`", reward_models.about(name)) for name in names])
    return "\n".join(parts)


def _section(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"### {title}\n", _columns_table(rows)]


def _columns_table(rows: list[tuple[str, str]]) -> str:
    return (
        "\n".join(["| column | what it says |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)]) + "\n"
    )


def _five(metric: str) -> str:
    return " ".join(f"`{metric}_{cell}`" for cell in METRIC_CELLS)


def _table(rows: Any) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
