"""The wheel holds what the tree holds, under one name, and runs where no checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACES = {"harness": "harness", "tasks": "harness/tasks", "conf": "harness/conf", "leaderboard": "harness/leaderboard"}
"""Folder of the tree -> folder of the wheel."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as .ci/run builds it, from a clean copy."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("a wheel is built from a checkout, whose files git lists")
    out = tmp_path_factory.mktemp("wheel")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "wheel"), str(out)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.glob("*.whl")
    return found


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    expected = {
        f"{PLACES[top]}/{rest}"
        for top, _, rest in (name.partition("/") for name in tracked())
        if top in PLACES and (rest.endswith((".py", ".yaml", ".html")) or rest == "py.typed")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    assert names == expected
    assert {name.partition("/")[0] for name in names} == {"harness"}
    assert "\nLicense-Expression: Apache-2.0\n" in described
    assert "\nProvides-Extra: joblib\n" in described


def test_the_wheel_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # First on the path, before the checkout that an editable install would add.
    environment["PYTHONPATH"] = str(target)

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = python(
        "-c",
        "import harness.tasks.qa, harness.conf, harness.leaderboard as l; print(harness.tasks.qa.__file__, l.__file__)",
    )
    assert all(path.startswith(str(target)) for path in where.split())
    assert "kl_coef" in python("-m", "harness", "--help")
    assert "evaluation of candidate" in python("-m", "harness", "experiment=smoke", "plan=true")
    assert "leaderboard.csv" in python("-m", "harness.leaderboard", "--help")
    assert not [path for path in empty.rglob("*") if path.is_file()]
