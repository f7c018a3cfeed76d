"""An override that decides nothing is refused; one that decides something, or takes a value away, never is."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config import Config, register_schemas
from harness.errors import UserError
from harness.idle import IDLE, idleness, refuse_idle


def made(*overrides: str) -> Config:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    register_schemas()
    with initialize_config_module("harness.conf", version_base="1.3"):
        config: Any = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    assert isinstance(config, Config)
    return config


PAIRS = ("data=local", "data.path=.", "feedback=pairs")


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (("sft.path=x",), "sft.path=x decides nothing without sft=load"),
        (("reward_model.path=x",), "reward_model.path=x decides nothing without reward_model=load"),
        (("judge.path=x",), "judge.path=x decides nothing without judge=load"),
        (("model.name=x",), "model.name=x decides nothing with model=nano"),
        (("model.revision=x",), "model.revision=x decides nothing with model=nano"),
        (("judge.model.name=x",), "judge.model.name=x decides nothing with judge.model.kind=nano"),
        (("data.path=x",), "data.path=x decides nothing with data=controlled"),
        (("+data.columns.source=x",), "data.columns.source=x decides nothing with data=controlled"),
        (("data=local", "data.sizes.sft=5"), "data.sizes.sft=5 decides nothing for rows that are there already"),
        ((*PAIRS, "feedback.noise=0.3"), "feedback.noise=0.3 decides nothing with feedback=pairs"),
        ((*PAIRS, "feedback.indifference=0"), "feedback.indifference=0 decides nothing with feedback=pairs"),
        (("feedback.metric=chrf",), "feedback.metric=chrf decides nothing with feedback=gold"),
        (
            ("reward_model=load", "reward_model.balance_length=true"),
            "reward_model.balance_length=true decides nothing with reward_model=load",
        ),
        (("reward_model=load", "reward_model.optimizer.lr=1e-3"), "reward_model.optimizer.lr=1e-3 decides nothing"),
        (("judge=load", "judge.sft_epochs=2"), "judge.sft_epochs=2 decides nothing with judge=load"),
        (("model={name: foo, width: 64}",), "model.name=foo decides nothing with model=nano"),
        (("judge=none", "judge={epochs: 2}"), "judge.epochs=2 decides nothing with judge=none"),
        (("judge=none", "judge={optimizer: {lr: 0.1}}"), "judge.optimizer.lr=0.1 decides nothing with judge=none"),
        (("judge=none", "judge.seed=2"), "judge.seed=2 decides nothing with judge=none"),
        (
            ("algorithm.value.kind=head", "algorithm.value.lr=1e-3"),
            "algorithm.value.lr=1e-3 decides nothing with algorithm.value.kind=head",
        ),
        (
            ("judge.responses=pairs", "judge.annotator.noise=0.1"),
            "judge.annotator.noise=0.1 decides nothing with judge.responses=pairs",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_decides_nothing_is_refused(given: tuple[str, ...], rule: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_idle(made(*given), given)
    assert str(caught.value).startswith(rule)


@pytest.mark.parametrize(
    "given",
    [
        ("sft=load", "sft.path=x", "sft.epochs=2"),  # the control that continues SFT reads it
        ("reward_model=load", "reward_model.path=x", "reward_model.scale_scores=true"),
        ("judge=load", "judge.path=x", "judge.heldout_pairs=100"),
        ("model=hf", "model.name=x", "model.revision=main"),
        ("judge.model.kind=hf", "judge.model.name=x"),
        ("data=local", "data.path=x", "+data.columns.source=en", "data.shares.sft=0.4"),
        ("data.sizes.sft=100", "data.references=2"),
        ("feedback=metric", "feedback.metric=chrf", "feedback.noise=0.1"),
        ("feedback.noise=0.1", "feedback.samples_per_prompt=4"),
        ("sft.path=null", "model.name=null"),
        ("model={name: null, width: 64}", "data={}"),
        ("judge.annotator.noise=0.1", "judge.responses=mixture"),
        ("experiment=multi30k", "data.path=x", "feedback=pairs"),  # the overlay's annotator is nobody's wish here
    ],
    ids=" ".join,
)
def test_what_decides_something_is_let_pass(given: tuple[str, ...]) -> None:
    config = made(*given)
    assert [idleness(config, override) for override in given] == [None] * len(given)
    refuse_idle(config, given)


def test_every_key_that_may_be_idle_exists() -> None:
    config = made("data=local")
    for key in (key for idle in IDLE for key in idle.keys):
        found: Any = config
        for name in key.split("."):
            assert hasattr(found, name), key
            found = getattr(found, name)
