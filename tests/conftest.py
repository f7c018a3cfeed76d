"""Tiny models that several folders of tests share: made in memory, peaked enough that greedy choices have no ties."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The files of tests run at the same time, a process for each core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# `evaluate` copies what it loads into one package for the whole process: let that be a folder of the tests' own.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="harness-tests-modules-")

TEXTS = [
    "the red fox runs home .",
    "a small bird sings in the old tree .",
    "Grüße aus Köln : the bird runs !",
    "why does the fox sing ? because it can .",
]


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Hydra composes twice, first for ``hydra.mode`` alone: tests do that where an override may set it."""
    from hydra._internal.hydra import Hydra

    real = Hydra.get_mode

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        set_here = any(override.lstrip("+").startswith(("sweep=", "hydra.mode=")) for override in overrides)
        return real(self, config_name, overrides) if set_here else None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Hydra, "get_mode", get_mode)
        yield


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., int]]:
    """A command's ``main`` -> a function that runs it on typed arguments in this process and returns its status."""
    from harness import cli

    for name in ("HYDRA_FULL_ERROR", "TOKENIZERS_PARALLELISM", cli.STATUS_FOLDER):
        monkeypatch.setenv(name, "")

    def typing_into(main: Callable[[], int]) -> Callable[..., int]:
        def run(*arguments: str) -> int:
            monkeypatch.setattr(sys, "argv", ["harness", *arguments])
            return main()

        return run

    return typing_into


@pytest.fixture(scope="session")
def codec() -> Any:
    """A byte-level codec with some merges."""
    from harness.models.codec import Codec
    from harness.models.nano import train_tokenizer

    return Codec(train_tokenizer(TEXTS, 300))


@pytest.fixture(scope="session")
def hardware() -> Any:
    from harness.hardware import Hardware

    return Hardware("cpu", "fp32", 1)


@pytest.fixture(scope="session")
def make_model(codec: Any) -> Callable[..., Any]:
    """(architecture, seed) -> a random causal model; ``spread`` peaks what it says.

    Its matrices have standard deviation 0.02 * ``spread``.
    """
    import torch

    from harness.config import ModelConfig
    from harness.models.nano import new_model

    def make(architecture: str = "gpt2", *, seed: int = 0, spread: float = 8.0, width: int = 16, **sizes: Any) -> Any:
        config = ModelConfig(
            kind="nano", architecture=architecture, width=width, **{"heads": 2, "context": 64, **sizes}
        )
        model = new_model(config, vocab_size=len(codec), eos_id=codec.eos_id, pad_id=codec.pad_id, seed=seed).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(spread * 0.02 / model.config.initializer_range)
        return model

    return make


@pytest.fixture
def make_lm(codec: Any, make_model: Callable[..., Any]) -> Callable[..., Any]:
    """As ``make_model``, with the codec."""
    from harness.models.loading import LanguageModel

    def make(architecture: str = "gpt2", **options: Any) -> Any:
        return LanguageModel(make_model(architecture, **options), codec)

    return make


@pytest.fixture
def make_scorer(make_lm: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """(architecture, seed) -> a classifier on such a model, made by saving the one and loading the other."""
    from harness.models.loading import load_scorer, save

    def make(architecture: str = "gpt2", *, head_seed: int = 7, **options: Any) -> Any:
        folder = tmp_path / f"scorer-{architecture}"
        save(make_lm(architecture, **options), folder)
        return load_scorer(folder, head_seed=head_seed)

    return make


@pytest.fixture(scope="session")
def ragged() -> tuple[list[list[int]], list[list[int]]]:
    """Five prompts and responses of mixed lengths, as token ids; EOS (0) ends all responses but the third."""
    prompts = [[5, 9, 20, 40, 33, 8, 60], [12], [70, 71, 72], [9, 9, 9, 14], [100, 3]]
    responses = [[30, 31, 0], [44, 45, 46, 47, 48, 0], [90, 91, 92, 93, 94, 95], [0], [17, 18, 0]]
    return prompts, responses


def reference(name: str) -> Any:
    """A module of tests/reference, however pytest was started."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "reference" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(family, changes of its configuration) -> the folder of a tiny random model: see tests/reference."""
    families, made = reference("tiny_families"), dict[str, Path]()

    def folder(family: str, **changes: Any) -> Path:
        name = f"{family}{sorted(changes.items())}"
        if name not in made:
            made[name] = families.write_family(family, tmp_path_factory.mktemp(family), **changes)
        return made[name]

    return folder


@pytest.fixture
def endpoint() -> Any:
    """(say, faults) -> a server on the loopback address, closed when the test ends: see its own file."""
    module = reference("loopback_endpoint")
    started: list[Any] = []

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(module.LoopbackEndpoint(*arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()
