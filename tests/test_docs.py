"""What the documents say of the code, held against the code."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest

from harness.usage import group_options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def make() -> Iterator[ModuleType]:
    """``docs/make.py``, which is no part of a package; as a command it finds ``meanings.py`` beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield _docs_make()


def _docs_make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(make: ModuleType) -> None:
    stale = [path.name for path, text in make.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python docs/make.py"


def test_the_page_of_columns_has_all_of_them_in_the_tables_order() -> None:
    from harness.leaderboard.reward_models import bench_columns
    from harness.leaderboard.rows import METRIC_CELLS, TASK_METRICS
    from harness.leaderboard.table import columns_of

    page = (ROOT / "docs" / "table.md").read_text(encoding="utf-8")
    policies, bench = (
        [
            name
            for line in re.findall(r"^\| (`.*?`) \| \w", part, flags=re.MULTILINE)
            for name in line.strip("`").split("` `")
        ]
        for part in page.split("\n## ")[1:]
    )
    cells = [f"{name}_{cell}" for name in (*TASK_METRICS, "EXTRA", "gold") for cell in METRIC_CELLS]
    assert [name for name in policies if name not in cells] == columns_of([])
    assert [name for name in policies if name in cells] == cells
    assert [name for name in bench if "best_of_N" not in name and "SUBSET" not in name] == bench_columns([])


def test_the_page_of_files_has_every_folder_of_code(make: ModuleType) -> None:
    tops = ("harness", "tasks", "leaderboard", "benchmarks")
    code = {file.parent.relative_to(ROOT).as_posix() for top in tops for file in (ROOT / top).rglob("*.py")}
    assert code == set(make.FOLDERS)


def test_every_meaning_belongs_to_a_key(make: ModuleType) -> None:
    from dataclasses import fields

    from harness import config
    from harness.reward_bench import config as bench

    for name, meanings in make.MEANINGS.items():
        known = {field.name for field in fields(getattr(config, name, None) or getattr(bench, name))}
        assert set(meanings) <= known, name


def test_a_default_of_the_embedded_set_up_alone_is_said_to_be_one() -> None:
    """Keys whose default is another with one's own data and model: the page's words give that one too."""
    from hydra import compose, initialize_config_module

    from harness.config import register_schemas

    register_schemas()
    own = ["data=local", "data.path=DIR", "model=hf", "model.name=DIR"]
    with initialize_config_module("harness.conf", version_base="1.3"):
        embedded, given = (compose("config", overrides=overrides) for overrides in ([], own))
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    differing = [key for key, value in _numbers(given) if value != dict(_numbers(embedded)).get(key, value)]
    assert {"sft.epochs", "rollout.batch_size"} <= set(differing)
    for key in differing:
        (meaning,) = re.findall(rf"^\| `{re.escape(key)}` \|.*\| (.*?) \|$", page, flags=re.MULTILINE)
        assert re.search(rf"\b{dict(_numbers(given))[key]:g}\b", meaning), key


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numeric keys of a configuration, with their values."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def test_the_readme_names_every_group_and_option() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, flags=re.MULTILINE))
    named = {group: re.findall(r"`(\w+)`", options) for group, options in rows.items()}
    options = group_options()
    overlays = {"experiment", "sweep"}
    assert set(named) == set(options) - overlays
    assert {group: sorted(given) for group, given in named.items()} == {
        group: given for group, given in options.items() if group not in overlays
    }


def test_the_readme_gives_the_two_commands() -> None:
    for command in (
        "pip install -c constraints.txt -e . && python -m harness task=summarize",
        "pip install -c constraints.txt -e '.[dev]' && pytest",
    ):
        assert f"\n    {command}\n" in README


@pytest.mark.parametrize(("page", "least"), [("README.md", 5), ("docs/models.md", 2), ("docs/extending.md", 2)])
def test_commands_on_a_page_have_overrides_that_exist(page: str, least: int) -> None:
    """Each ``python -m harness`` line composes; names in capitals stand for what a reader puts there."""
    from hydra import compose, initialize_config_module

    from harness.config import register_schemas

    register_schemas()
    joined = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (?:.*&& )?python -m harness (?!-m )(.*?)(?:\s+#.*)?$", joined, flags=re.MULTILINE)
    assert len(lines) >= least
    with initialize_config_module("harness.conf", version_base="1.3"):
        for line in lines:
            given = [word for word in re.findall(r'[^\s"]+(?:"[^"]*")?', line) if not word.startswith("-")]
            overrides = [word.split(",")[0] for word in given if not re.search(r"=[A-Z_]{3,}$", word.split(",")[0])]
            compose("config", overrides=overrides)
            assert overrides or "--help" in line


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_in_the_documents_lead_somewhere(page: str) -> None:
    """To a file or folder that is there, and to a heading that it has."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    """A page's headings as links name them: in small letters, words joined by hyphens, punctuation left out."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_links_to_every_page() -> None:
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(
        re.findall(r"\((docs/\w+\.md)", README)
    )


def test_the_page_of_records_names_every_key_and_every_gate() -> None:
    from harness.feedback.pairs import FIELDS
    from harness.records import Record, Sample
    from harness.training.gates import GATES

    page = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert {*_keys(Record), *_keys(Sample), *FIELDS} <= named
    gates = page.partition("## Gates")[2]
    assert sorted(re.findall(r"^\| `(\w+)` \|", gates, flags=re.MULTILINE)) == sorted(GATES)


def _keys(kind: Any) -> Iterator[str]:
    """The keys of a TypedDict, and those of the ones in it."""
    for name, hint in get_type_hints(kind).items():
        yield name
        for inner in (hint, *get_args(hint)):
            if is_typeddict(inner):
                yield from _keys(inner)


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    extras = [needed for extra in project["optional-dependencies"].values() for needed in extra]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text
    assert not [version for version in pinned.values() if "+" in version]
