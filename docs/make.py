"""Writes the pages that follow from the code: ``configuration.md``, ``table.md`` and ``files.md``.

Run ``python docs/make.py`` after a change to ``harness/config.py``, ``conf/`` or the table's columns, and for a new
file; a test compares. What a key means stands in ``meanings.py``, what a column says in ``leaderboard/legend.py``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from meanings import BENCH_GROUPS, GROUPS, MEANINGS

from harness.config import SCHEMAS, Config, register_schemas
from harness.leaderboard import reward_models
from harness.leaderboard.legend import CAVEATS, CELLS, METRICS, explain
from harness.leaderboard.rows import METRIC_CELLS, SCALARS, TASK_METRICS
from harness.leaderboard.table import FIRST_COLUMNS, PROVENANCE_COLUMNS, WIN_RATE_COLUMNS
from harness.usage import group_options

ROOT = Path(__file__).parent.parent

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

FILES = """# Files

One line for each file of the code, the first sentence of its docstring. Tests are in `tests/`, in folders of the same
names, and the naive implementations that they compare with in `tests/reference/`; `conf/` has a folder for each group
of the configuration, with a file for each option, and in `conf/settings/` what one option sets of another group.

This page is made by `python docs/make.py`.
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

OPTION_SCHEMAS = {
    "data_controlled": ("data", "controlled"),
    "data_local": ("data", "local"),
    "data_hub": ("data", "hub"),
    "model_api": ("model", "api"),
    "algorithm_load": ("algorithm", "load"),
}
"""Schemas with keys that one option of a group has, and others do not."""


def pages() -> dict[Path, str]:
    """Path -> the text that it should hold."""
    return {
        ROOT / "docs" / "configuration.md": configuration(),
        ROOT / "docs" / "table.md": columns(),
        ROOT / "docs" / "files.md": files(),
    }


def files() -> str:
    """The page of source files: a table for each folder, with the first sentence of each file's docstring."""
    parts = [FILES]
    for folder, about in FOLDERS.items():
        sentences = {path.name: _first_sentence(path) for path in sorted((ROOT / folder).glob("*.py"))}
        rows = [f"| [{name}](../{folder}/{name}) | {sentence} |" for name, sentence in sentences.items() if sentence]
        parts += [f"## {folder}/\n", f"{about[0].upper()}{about[1:]}.\n"]
        parts.append("\n".join(["| file | what is in it |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?: |$)", paragraph)[0].replace("``", "`").replace("|", "\\|")


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
