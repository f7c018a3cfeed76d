"""Metrics by name; `evaluate.load` on the shipped files without a network; modules of the user's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import harness.evaluation
from harness.errors import UserError
from harness.evaluation import registry
from harness.evaluation.registry import BUILT_IN, TAKEN, load_metric, metrics_for
from harness.models.content import content_identity

WriteModule = Callable[..., str]

FOLDER = Path(harness.evaluation.__file__).parent / "metrics"

LIGHT_MODULES = ["compare", "evaluate_module", "module", "registry", "scored", "statistics", "text_quality", "wins"]

LOAD_ALL = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise OSError("this test has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import evaluate

found = {}
for path in sys.argv[1:]:
    module = evaluate.load(path)
    lists = module.compute(predictions=["the cat sat on it", "dog"], references=[["the cat sat on it"], ["cat", "dog"]])
    plain = module.compute(predictions=["the cat sat on it"], references=["the cat sat on it"])
    found[path] = [lists, plain, list(module.columns), type(module).__module__]
print(json.dumps(found))
"""


def clean_environment(folder: Path) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return environment | {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def test_evaluate_loads_every_shipped_file_without_a_network(tmp_path: Path) -> None:
    paths = [str(FOLDER / f"{name}.py") for name in BUILT_IN]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *paths],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for path, (lists, plain, columns, loaded_from) in found.items():
        assert loaded_from.startswith("evaluate_modules.metrics.")  # the copy, not the package's own file
        assert tuple(columns) == BUILT_IN[Path(path).stem]
        assert set(lists) == set(plain) == set(columns)
        for name, value in lists.items():
            # distinct counts over both texts (6 different words); a single token has no bigram
            expected = {"rouge2": 50.0}.get(name, 100.0)
            assert value == pytest.approx(expected), name
            assert plain[name] == pytest.approx(100.0), name


def test_the_shipped_files_are_all_built_in_and_import_one_module_per_line() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == set(BUILT_IN)
    for path in FOLDER.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import ", "from ")):
                assert not line.startswith(("from .", "import .")), path
                assert not (line.startswith("import ") and "," in line), path


def test_importing_the_evaluation_loads_neither_torch_nor_evaluate() -> None:
    code = "; ".join(
        [f"import harness.evaluation.{name}" for name in LIGHT_MODULES]
        + ["import sys", "print([m for m in ('torch', 'evaluate', 'datasets', 'scipy') if m in sys.modules])"]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metrics_by_module_and_by_column() -> None:
    for name, columns in BUILT_IN.items():
        assert load_metric(name).columns == columns
        for column in columns:
            assert load_metric(column).columns == columns


def test_metrics_for_gives_each_column_once_in_order() -> None:
    metrics = metrics_for(["rouge1", "bleu", "rougeLsum", "exact_match"])
    assert [metric.columns for metric in metrics] == [("rouge1", "rougeLsum"), ("bleu",), ("exact_match",)]
    assert list(metrics[0].scored(["cat"], [["cat"]])) == ["rouge1", "rougeLsum"]


def test_the_same_texts_are_scored_once_whichever_columns_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    registry._scored.cache_clear()
    asked, built_in = [], registry._built_in
    monkeypatch.setattr(registry, "_built_in", lambda module: (asked.append(module), built_in(module))[1])
    (first,), (second,) = metrics_for(["rougeL"]), metrics_for(["rouge1"])
    outputs, references = ["the cat sat once"], [["a cat sat once", "no dog"]]
    scores = [metric.scored(outputs, references) for metric in (first, second, first)]
    assert asked == ["rouge"]
    assert [list(each) for each in scores] == [["rougeL"], ["rouge1"], ["rougeL"]]
    other = first.scored(outputs, [["a cat", "no dog"]])["rougeL"].score()[0]
    assert other != scores[0]["rougeL"].score()[0]
    assert asked == ["rouge", "rouge"]


def test_a_column_that_is_not_built_in_is_refused() -> None:
    with pytest.raises(UserError, match=r"task\.metrics=rouge9 is not a built-in metric"):
        metrics_for(["rouge9"])


MODULE = """
import datasets
import evaluate
{extra_import}

class Own(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="",
            features=datasets.Features({{"predictions": text, "references": {references}}}),
        )

    def _compute(self, predictions, references):
        return {result}
"""


@pytest.fixture
def write_module(tmp_path: Path) -> WriteModule:
    def write(name: str, *, result: str, references: str = "text", extra_import: str = "") -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(MODULE.format(result=result, references=references, extra_import=extra_import))
        return str(path)

    return write


def test_a_module_that_takes_one_reference_is_averaged_over_them(write_module: WriteModule) -> None:
    path = write_module(
        "same_length", result="{'same': sum(len(p) == len(r) for p, r in zip(predictions, references))}"
    )
    (metric,) = metrics_for([], [path])
    assert metric.columns == ("same_length",)
    scored = metric.scored(["abc", "ab", ""], [["xyz", "x"], ["x", "xyz"], [""]])["same_length"]
    assert scored.per_example.tolist() == [0.5, 0.0, 1.0]
    assert scored.score()[0] == pytest.approx(0.5)
    content = content_identity(path)
    assert scored.signature == f"evaluate:same_length|code:{content}|refs:mean|agg:mean"


OWN_PROTOCOL = """
import evaluate
from harness.evaluation.metrics.distinct import Distinct

class Own(Distinct):
    columns = ("distinct1", "distinct2")  # {version}
"""


def test_a_signature_says_which_code_it_was(tmp_path: Path, write_module: WriteModule) -> None:
    found = []
    for result in ("float(len(predictions[0]))", "2 * float(len(predictions[0]))"):
        path = write_module("len2", result=result)
        scored = load_metric(path).scored(["ab"], [["x"]])["len2"]
        found.append((scored.score()[0], scored.signature))
    assert [value for value, _ in found] == [2.0, 4.0]
    assert found[0][1] != found[1][1]
    signatures = set()
    for version in ("1", "2"):
        path = tmp_path / "own.py"
        path.write_text(OWN_PROTOCOL.format(version=version))
        scored = load_metric(str(path)).scored(["a b", "a c"], [["x"], ["x"]])["distinct1"]
        assert scored.score()[0] == pytest.approx(75.0)  # three different words of four
        assert scored.signature.endswith(f"|code:{content_identity(str(path))}")
        signatures.add(scored.signature)
    assert len(signatures) == 2


@pytest.mark.parametrize("name", [*TAKEN, "gold_words"])
def test_a_name_of_another_quantity_is_refused(name: str, write_module: WriteModule) -> None:
    path = write_module(name, result="{'x': 1.0}")
    with pytest.raises(UserError, match=rf"extra_metrics={path} gives {name}, which is what the table calls something"):
        metrics_for(["exact_match"], [path])


def test_the_names_that_are_taken_are_the_tables() -> None:
    """All of the record's scalars, and whatever else of its columns a metric's cells could be."""
    from harness.leaderboard.rows import METRIC_CELLS, SCALARS
    from harness.leaderboard.table import FIRST_COLUMNS, LAST_COLUMNS

    columns = {*FIRST_COLUMNS, *LAST_COLUMNS}
    cells = [f"_{cell}" for cell in METRIC_CELLS]
    stems = {column.removesuffix(cell) for column in columns for cell in cells if column.endswith(cell)}
    assert stems <= set(TAKEN)
    assert {name.removesuffix("_before").removesuffix("_after") for name in SCALARS} <= set(TAKEN)


def test_a_module_that_takes_lists_and_gives_several_numbers(write_module: WriteModule) -> None:
    path = write_module(
        "counts",
        references="datasets.Sequence(text)",
        result="{'refs': len(references[0]), 'f1': [float(len(predictions[0]))], 'note': 'x', 'all': [1, 2]}",
    )
    metric = load_metric(path)
    assert metric.columns == ("counts_refs", "counts_f1")
    scored = metric.scored(["abc", "ab"], [["x", "y"], ["z"]])
    assert scored["counts_refs"].per_example.tolist() == [2, 1]
    assert scored["counts_f1"].per_example.tolist() == [3, 2]


def test_a_module_that_gives_a_bare_number(write_module: WriteModule) -> None:
    metric = load_metric(write_module("bare", result="float(len(predictions[0]))"))
    assert metric.scored(["abcd"], [["x"]])["bare"].per_example.tolist() == [4]


def test_a_path_to_a_shipped_file_is_that_metric(write_module: WriteModule, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = load_metric(str(FOLDER / "squad.py"))
    assert metric.columns == ("exact_match", "f1")
    scored = metric.scored(["The cat"], [["cat"]])["f1"]
    assert scored.score()[0] == 100
    assert scored.signature == load_metric("f1").scored(["The cat"], [["cat"]])["f1"].signature


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"result": "{'note': 'none'}"}, "its result holds no number"),
        ({"result": "1 / 0"}, "division by zero"),
        ({"result": "{}", "extra_import": "import not_installed_here"}, "not_installed_here"),
        ({"result": "{'x': 1}", "references": "datasets.Value('int64')"}, "does not score texts"),
    ],
)
def test_a_module_that_does_not_score_texts_is_refused(
    write_module: WriteModule, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_metric(write_module("broken", **options))
    assert caught.value.key == "evaluation.extra_metrics"


def test_a_column_that_is_there_already_is_refused(write_module: WriteModule) -> None:
    path = write_module("bleu", result="{'x': 1.0}")
    with pytest.raises(UserError, match="a column that is there already: bleu"):
        metrics_for(["bleu"], [path])


@pytest.mark.parametrize("flag", ["1", ""])
@pytest.mark.parametrize("name", ["no_such_metric_anywhere", "someone/no_such_metric", "no/such/file.py"])
def test_what_cannot_be_loaded_offline_says_so_at_once(
    name: str,
    flag: str,
    write_module: WriteModule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("this test has no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", flag)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_metric(name)
    assert caught.value.key == "evaluation.extra_metrics"
    assert name in str(caught.value)
    assert time.monotonic() - started < 3
