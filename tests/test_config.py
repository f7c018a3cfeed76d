"""The configuration as users meet it: every YAML composes, and every mistake is one message and exit status 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli, config, graph
from harness.config import SCHEMAS, Config, register_schemas
from harness.errors import UserError
from harness.usage import BENCH_GROUPS, group_options
from harness.validation import require_finite, validate

CONF = Path(config.__file__).parent.parent / "conf"
FOUND = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))
GROUPS = [name for name in FOUND if name.split("/")[0] not in BENCH_GROUPS]
OVERLAYS = [name for name in GROUPS if name.split("/")[0] in ("experiment", "sweep")]
ALGORITHMS = [name for name in GROUPS if name.startswith("algorithm/")]
EXPERIMENTS = group_options()["experiment"]
SETTINGS = sorted(path for path in CONF.glob("settings/*/*.yaml") if path.parent.name not in ("data", "model"))
SFT = [name for name in GROUPS if name.startswith("sft/")]


def composed(*overrides: str) -> Any:
    from hydra import compose, initialize_config_module

    register_schemas()
    with initialize_config_module("harness.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture
def harness(in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``python -m harness`` in this process and in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    return in_process(cli.main)


# ---- every file


def test_the_tree_was_found() -> None:
    assert {name.split("/")[0] for name in GROUPS} == {
        *("task", "data", "model", "sft", "feedback", "reward_model", "judge", "algorithm", "rollout"),
        *("evaluation", "hardware", "tracker", "hub", "experiment", "sweep"),
    }


@pytest.mark.parametrize("name", GROUPS)
def test_every_choice_composes_into_the_schema(name: str) -> None:
    from omegaconf import OmegaConf

    group, option = name.split("/")
    paths = [f"{key}.path=." for key in ("data", "sft", "reward_model", "judge")]
    made = OmegaConf.to_object(composed(f"{group}={option}", "model.name=.", *paths))
    assert isinstance(made, Config)


@pytest.mark.parametrize("task", group_options()["task"])
def test_the_defaults_of_every_task_are_valid(task: str) -> None:
    from omegaconf import OmegaConf

    made: Any = OmegaConf.to_object(composed(f"task={task}"))
    validate(made)
    assert made.task.name == task


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_global_from_their_first_line(name: str) -> None:
    assert (CONF / f"{name}.yaml").read_text().startswith("# @package _global_\n")


@pytest.mark.parametrize("name", sorted(set(GROUPS) - set(OVERLAYS) - set(ALGORITHMS) - set(SFT)))
def test_every_other_choice_rests_on_a_schema(name: str) -> None:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert content["defaults"][0]["/schema@_here_"] in SCHEMAS
    assert content["defaults"][-1] == "_self_"


@pytest.mark.parametrize("name", SFT)
def test_where_a_policy_comes_from_overrides_no_number_of_passes(name: str) -> None:
    """Its file comes after what the task's world says of them: keys and defaults stand in the schema above."""
    assert yaml.safe_load((CONF / f"{name}.yaml").read_text()) == {"source": name.removeprefix("sft/")}


@pytest.mark.parametrize(
    ("key", "overrides", "passes"),
    [
        ("sft.epochs", ["task=summarize"], 1),
        ("sft.epochs", ["task=dialogue"], 1.5),
        ("sft.epochs", ["task=translate"], 3),
        ("sft.epochs", ["task=qa"], 2),
        ("sft.epochs", ["task=summarize", "data=local"], 3),
        ("sft.epochs", ["task=summarize", "sft.epochs=5"], 5),
        ("sft.epochs", ["experiment=dialogsum"], 3),
        ("sft.epochs", ["experiment=overoptimisation", "task=dialogue"], 3),
        ("algorithm.epochs", ["task=summarize"], 2),
        ("algorithm.epochs", ["task=qa"], 2),
        ("algorithm.epochs", ["task=qa", "data=local"], 4),
        ("algorithm.epochs", ["task=qa", "algorithm.epochs=5"], 5),
        ("algorithm.epochs", ["experiment=multi30k"], 4),
        ("algorithm.epochs", ["experiment=overoptimisation", "task=dialogue"], 4),
        ("algorithm.epochs", ["experiment=length_bias", "task=qa"], 4),
        ("judge.sft_epochs", ["task=summarize"], 0.25),
        ("judge.sft_epochs", ["task=dialogue"], 0.25),
        ("judge.sft_epochs", ["task=translate"], 0.5),
        ("judge.sft_epochs", ["task=qa", "data=local"], 0.5),
        ("judge.sft_epochs", ["task=qa", "judge.sft_epochs=2"], 2),
        ("judge.sft_epochs", ["task=qa", "judge=none"], 0.25),
        ("judge.sft_epochs", ["experiment=length_bias", "task=qa"], 0.5),
    ],
)
def test_passes_follow_the_world_unless_something_says_otherwise(key: str, overrides: list[str], passes: float) -> None:
    group, name = key.split(".")
    assert getattr(getattr(composed(*overrides), group), name) == passes


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ([], 1024),
        (["model=hf"], 256),
        (["rollout.batch_size=64"], 64),
        (["experiment=tldr_pythia_1b"], 64),
    ],
)
def test_nano_is_sampled_in_larger_batches(overrides: list[str], rows: int) -> None:
    assert composed("task=summarize", *overrides).rollout.batch_size == rows


def test_every_store_gets_the_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.config_store import ConfigStore

    for store in (ConfigStore(), ConfigStore()):
        monkeypatch.setattr(ConfigStore, "instance", lambda store=store: store)
        register_schemas()
        assert {f"{name}.yaml" for name in SCHEMAS} == set(store.repo["schema"])


def test_sweeps_alone_are_sweeps_without_being_asked() -> None:
    """What the tests' shortcut of Hydra's first composition takes for granted."""
    modes = {path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml") if "mode: MULTIRUN" in path.read_text()}
    assert modes == {"sweep"}
    assert not [path for path in CONF.rglob("*.yaml") if "/sweep" in path.read_text()]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_overrides_no_overlay(name: str) -> None:
    """Its file comes after the overlays: keys and defaults stand in its schema."""
    assert set(yaml.safe_load((CONF / f"{name}.yaml").read_text())) == {"_target_", "name"}
    assert name.replace("/", "_") in SCHEMAS


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_set_up_is_scored_without_training(experiment: str) -> None:
    untrained = composed(f"experiment={experiment}", "algorithm=none")
    target = "harness.training.untrained.Untrained"
    assert untrained.algorithm == {"_target_": target, "name": "none", "episodes": 0, "prompt_splits": ["rl"]}
    loaded = composed(f"experiment={experiment}", "algorithm=load", "algorithm.path=DIR")
    target = "harness.training.finished.FinishedPolicy"
    assert loaded.algorithm == {**untrained.algorithm, "_target_": target, "name": "load", "path": "DIR"}


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_a_set_up_sets_of_an_algorithm_holds(path: Path) -> None:
    from omegaconf import OmegaConf

    made = composed(f"experiment={path.parent.name}", f"algorithm={path.stem}").algorithm
    assert made == OmegaConf.merge(made, OmegaConf.load(path))


def test_settings_of_an_algorithm_are_merged_in_order() -> None:
    def algorithm(*given: str) -> Any:
        made = composed(*given).algorithm
        return made.episodes, made.batch_size, made.micro_batch_size, made.kl_coef, made.optimizer.lr

    assert algorithm() == (2048, 128, None, 0.05, 1e-4)
    assert algorithm("experiment=multi30k") == (8192, 128, None, 0.1, 1e-5)
    assert algorithm("experiment=tldr_pythia_2.8b") == (999936, 512, 4, 0.05, 3e-6)
    assert algorithm("experiment=[tldr_pythia_2.8b,lora]") == (999936, 512, 4, 0.05, 3e-5)
    assert algorithm("experiment=[smoke,length_bias]") == (64, 32, None, 0.02, 2e-3)
    assert algorithm("experiment=[multi30k,smoke]", "algorithm.kl_coef=0.2") == (64, 32, None, 0.2, 2e-3)


def test_no_schema_grows_past_fifteen_fields() -> None:
    def classes(schema: type) -> set[type]:
        inner = [type(made) for made in vars(schema()).values() if type(made).__module__ == config.__name__]
        return {schema}.union(*map(classes, inner)) if inner else {schema}

    # What a class shares with others of its group is not its own: data's three sources, PPO and every algorithm.
    counted = {
        schema.__name__: len(vars(schema)["__annotations__"]) for top in SCHEMAS.values() for schema in classes(top)
    }
    own = {name: count for name, count in counted.items() if name not in ("Config", "PPOConfig")}
    assert len(own) >= 15
    assert max(own.values()) <= 15, own
    # What PPO shares with every algorithm is not its own; the root holds groups, and four keys of its own.
    assert len(set(PPO_FIELDS) - {"_target_", "name", "episodes", "prompt_splits"}) <= 15
    assert [field.name for field in fields(Config) if field.name not in SCHEMAS] == [
        *("seed", "candidate", "output_dir", "plan"),
    ]


PPO_FIELDS = [field.name for field in fields(config.PPOConfig)]


# ---- mistakes

MISTAKES = {
    # what was typed: the whole message
    "task=nope": "task=nope is not a choice; choose dialogue, qa, summarize, translate",
    "experiment=nope": f"experiment=nope is not a choice; choose {', '.join(EXPERIMENTS)}",
    "algorithm=PPO": "algorithm=PPO is not a choice; choose load, none, ppo",
    "hydra/launcher=null": "hydra/launcher=null is not a choice; leave hydra/launcher out",
    "algorithm= null": "algorithm= null is not a choice; choose load, none, ppo, or leave algorithm out",
    "algorithm=null": "algorithm=null is not a choice; choose load, none, ppo, or leave algorithm out",
    "task=qa,Null": ("task=qa,Null is not a choice; choose dialogue, qa, summarize, translate, or leave task out"),
    "sft.epoch=1": "sft.epoch=1 is not a configuration key; did you mean sft.epochs?",
    "kl_coef=0.1": "kl_coef=0.1 is not a configuration key; did you mean algorithm.kl_coef?",
    "algorithm.lr=1": (
        "algorithm.lr=1 is not a configuration key; did you mean algorithm.value.lr or algorithm.optimizer.lr?"
    ),
    "reward=train": "reward=train is not a configuration key; did you mean reward_model?",
    "qwertz=1": "qwertz=1 is not a configuration key; python -m harness --help lists the keys",
    "+sft.epoch=1": "sft.epoch=1 is not a configuration key; did you mean sft.epochs?",
    "++qwertz.a=1": "qwertz is not a configuration key; python -m harness --help lists the keys",
    "sft.epochs=abc": "sft.epochs=abc is not a number; give one such as 0.1",
    "sft.epochs=": "sft.epochs= is not a number; give one such as 0.1",
    "seed=1.5": "seed=1.5 is not a whole number; give one such as 8",
    "data.mixture={good: 0.5, bare: 0.5}": (
        "data.mixture.bare=0.5 is no style of this world's demonstrations; use good, dropped, lead, verbose"
    ),
    "data.references=25": (
        "data.references=25 is more than the world 'reports' has for every prompt, which is 24; lower it to at most 24"
    ),
    "data.mixture={good: 0.5}": "data.mixture={'good': 0.5} sums to 0.5, not to 1; change the shares",
    "data.sizes.test=x": "data.sizes.test=x is not a whole number; give one such as 8",
    "task.options.speakers=[A]": (
        "task.options={'speakers': ['A']} does not fit harness.tasks.summarize.Summarize"
        " (Summarize.__init__() got an unexpected keyword argument 'speakers'); give the options that the task takes"
    ),
    "seed=null": "seed=null cannot be null; give a value or leave the key out",
    "plan=maybe": "plan=maybe is neither true nor false; give one of the two",
    "task.metrics=bleu": "task.metrics=bleu is not a list; write task.metrics=[VALUE,VALUE]",
    f"seed={2**63}": f"seed={2**63} has more than 63 bits; give a smaller one",
    "data.sizes.test=1": "data.sizes.test=1 leaves one test prompt, too few for an interval; give 2 or more",
    "data.sizes=3": "data.sizes=3 is not a mapping; set its entries one by one: data.sizes.NAME=VALUE",
    "judge.model=hf": "judge.model=hf stands for a group of keys; set them one by one: judge.model.NAME=VALUE",
    "~sft": "sft is missing; give sft=VALUE",
    "~data": "data names no single choice; give data=NAME",
    "~task": "task names no single choice; give task=NAME",
    "~algorithm": "algorithm names no single choice; give algorithm=NAME",
    "algorithm=[ppo,none]": "algorithm=[ppo,none] names no single choice; give algorithm=NAME",
    "~sft.epochs": "sft.epochs cannot be removed; set it to another value",
    "sft.path=${nope}": "sft.path=${nope} refers to a key that does not exist; give a value",
    "model=hf,nano": "model=hf,nano gives several values; add -m to run each, or write [a,b] for one list",
    "sft.path": "sft.path has no value; write sft.path=VALUE",
    "data.sizes={sft: 3": (
        "data.sizes={sft: 3 cannot be read as key=value; close brackets, and quote special characters: 'key=\"a b\"'"
    ),
    "=3": "=3 has no key; write KEY=VALUE",
    "sft.batch_size=0": "sft.batch_size=0 must be above 0; give a larger number",
    "feedback.noise=2": "feedback.noise=2.0 must lie between 0 and 1; give a share such as 0.1",
    "tracker.mode=loud": "tracker.mode=loud is not a choice; choose rich, plain, quiet",
    "reward_model.micro_batch_size=0": "reward_model.micro_batch_size=0 must be above 0; give a larger number",
    "sft.packed_tokens=512": (
        "sft.packed_tokens=512 decides nothing without sft.packing; set sft.packing=true, or leave it out"
    ),
    "feedback.min_pairs=0": "feedback.min_pairs=0 must be above 0; give a larger number",
    "judge.min_pairs=0": "judge.min_pairs=0 must be above 0; give a larger number",
    "sft.max_steps=0": "sft.max_steps=0 must be above 0; give a larger number",
    "sft.epochs=inf": "sft.epochs=inf is no number to reckon with; give a finite one",
    "judge.model.vocab_size=100": ("judge.model.vocab_size=100 has no room for the 256 bytes, pad and EOS; give 2048"),
    "feedback.samples_per_prompt=5": (
        "feedback.samples_per_prompt=5 is odd: samples are compared in twos; give an even number"
    ),
    "judge.samples_per_prompt=1": "judge.samples_per_prompt=1 gives nothing to compare; give 2 or more",
    "algorithm.checks.limits.max_kl=-5": (
        "algorithm.checks.limits.max_kl=-5.0 must be above 0; give 50, say, or null for no limit"
    ),
    "algorithm.checks.limits.max_length_share=98": (
        "algorithm.checks.limits.max_length_share=98.0 is no share of task.max_response_tokens: it must lie between 0"
        " and 1; give 0.98, say, or null for no limit"
    ),
    "sft.path=/tmp": "sft.path=/tmp decides nothing without sft=load; add sft=load, or leave it out",
    "judge.path=/tmp": "judge.path=/tmp decides nothing without judge=load; add judge=load, or leave it out",
    "reward_model.path=/tmp": (
        "reward_model.path=/tmp decides nothing without reward_model=load; add reward_model=load, or leave it out"
    ),
    "model.name=gpt2": (
        "model.name=gpt2 decides nothing with model=nano, which is made anew; add model=hf, or leave it out"
    ),
    "judge.model.name=gpt2": (
        "judge.model.name=gpt2 decides nothing with judge.model.kind=nano, which is made anew; add judge.model.kind=hf,"
        " or leave it out"
    ),
    "data.path=/tmp": (
        "data.path=/tmp decides nothing with data=controlled, which is generated; add data=local or data=hub, or leave"
        " it out"
    ),
    "data.limits.sft=10": (
        "data.limits.sft=10 decides nothing with data=controlled, which is generated; add data=local or data=hub, or"
        " leave it out"
    ),
    "feedback.metric=chrf": (
        "feedback.metric=chrf decides nothing with feedback=gold, which knows the reward; add feedback=metric, or leave"
        " it out"
    ),
    "algorithm.value.lr=0": "algorithm.value.lr=0.0 must be above 0; give a larger number",
    "evaluation.seed=-1": "evaluation.seed=-1 must be at least 0; give 0 or more",
    "feedback.metric=bleurt": (
        "feedback.metric=bleurt is no smooth sentence metric that we know; choose bleu, chrf, f1, gleu, rougeL,"
        " or several joined by +"
    ),
    "judge.annotator.metric=gleu+": (
        "judge.annotator.metric=gleu+ is no smooth sentence metric that we know; choose bleu, chrf, f1, gleu, rougeL,"
        " or several joined by +"
    ),
    "hardware.device=gpu": "hardware.device=gpu is no device; choose auto, cpu, cuda or cuda:N (cuda:0)",
    "task.metrics=[rougeL,bleurt]": (
        "task.metrics=bleurt is not a built-in metric; choose among bleu, rouge1, rouge2, rougeL, rougeLsum, chrf,"
        " exact_match, f1, distinct1, distinct2, or name an `evaluate` module in evaluation.extra_metrics"
    ),
    "evaluation.leaderboard=nope.build": (
        "evaluation.leaderboard=nope.build is no function that can be imported; give package.module.function"
    ),
    "algorithm._target_=harness.training.ppo.Nope": (
        "algorithm._target_=harness.training.ppo.Nope is no class that can be imported; give package.module.Class"
    ),
    "task.main_metric=bleurt": (
        "task.main_metric=bleurt is not among task.metrics;"
        " choose one of ['rouge1', 'rouge2', 'rougeL', 'rougeLsum', 'bleu']"
    ),
    "algorithm.minibatch_size=12": (
        "algorithm.minibatch_size=12 does not divide algorithm.batch_size=128; set it to 8 or 16"
    ),
    "algorithm.prompt_splits=[rl,test]": (
        "algorithm.prompt_splits=['rl', 'test'] holds test, none of its own prompts; choose among sft, preference, rl"
    ),
    "algorithm.prompt_splits=[]": (
        "algorithm.prompt_splits=[] is not one or several splits, each once; choose among sft, preference, rl"
    ),
    "evaluation.fixed_rows=[sft,best]": (
        "evaluation.fixed_rows=best is no fixed row;"
        " choose among references, base, sft, sft-more, best-of-n, copy-input, empty, longest"
    ),
    "data=local": "data.path is missing; give a file or folder: data.path=PATH",
    "model=hf": "model.name is missing; give a folder or a hub id: model.name=...",
    "judge=load": "judge.path is missing; give the folder of the finished model: judge.path=...",
    "hub=push": "hub.repo is missing; name the repository: hub.repo=OWNER/NAME",
    "hub.license=": "hub.license= names no licence; give the hub's identifier, such as mit, or leave it out",
    "algorithm=load": "algorithm.path is missing; give the folder of the finished model: algorithm.path=...",
    "algorithm.name=a/b": ("algorithm.name=a/b is no name of letters, digits and . _ + -; give one such as ppo-trl"),
    "algorithm.name=evaluation": (
        "algorithm.name=evaluation is the name of another stage; give one that no stage has, such as ppo-trl"
    ),
    "candidate=sft-more": "candidate=sft-more is the name of a fixed row; give another, or leave it out",
    "experiment=[smoke,nope]": f"experiment=nope is not a choice; choose {', '.join(EXPERIMENTS)}",
    "judge={seed: 2, model: {name: x}}": (
        "judge.model.name=x decides nothing with judge.model.kind=nano, which is made anew; add judge.model.kind=hf,"
        " or leave it out"
    ),
    "--resolve": (
        "the command line cannot be used (The --resolve flag can only be used in conjunction with --cfg or --help);"
        " python -m harness --help lists the keys and their values"
    ),
    "tracker.log_file=/": "tracker.log_file=/ cannot be written (Is a directory); give another file",
    "model.width=31": "model.width=31 is not a multiple of model.heads=2; set it to one",
    "hydra/launcher=nope": "hydra/launcher=nope is not a choice; choose basic, joblib",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_message(
    typed: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert harness(typed) == 2
    captured = capsys.readouterr()
    assert captured.err.rstrip("\n") == MISTAKES[typed]
    assert captured.out == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


NO_NUMBERS = [
    *("sft.optimizer.max_grad_norm", "algorithm.optimizer.eps", "judge.optimizer.weight_decay", "feedback.length_bias"),
    *("algorithm.kl.target", "algorithm.missing_eos_penalty", "algorithm.checks.limits.min_score", "data.shares.rl"),
    *("judge.annotator.length_bias", "algorithm.advantage.lam", "model.lora.dropout", "rollout.top_p"),
]


@pytest.mark.parametrize("key", NO_NUMBERS)
def test_no_number_is_refused_by_its_key_wherever_it_stands(key: str) -> None:
    from omegaconf import OmegaConf

    for number in ("nan", "inf", "-inf"):
        with pytest.raises(UserError) as caught:
            validate(OmegaConf.to_object(composed(f"{key}={number}")))  # type: ignore[arg-type]
        assert str(caught.value) == f"{key}={number} is no number to reckon with; give a finite one"
    with pytest.raises(UserError, match=r"^model\.api\.options\.extra=nan is no number"):
        require_finite({"model": {"api": {"options": {"extra": [1, {}, float("nan")]}}}})


def test_a_key_of_another_choice_says_so(harness: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("algorithm=none", "algorithm.kl_coef=0.1") == 2
    assert capsys.readouterr().err == (
        "algorithm.kl_coef=0.1 is not a configuration key;"
        " another choice of algorithm has it; choose that one, or leave the key out\n"
    )


def test_a_row_holds_the_longest_demonstration(harness: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("task.max_prompt_tokens=100", "task.max_response_tokens=60")
    assert harness(*limits, "sft.packing=true", "sft.packed_tokens=159") == 2
    assert capsys.readouterr().err == (
        "sft.packed_tokens=159 is shorter than task.max_prompt_tokens + task.max_response_tokens = 160;"
        " set it to at least 160, or leave it out\n"
    )
    assert harness(*limits, "sft.packing=true", "sft.packed_tokens=0") == 2
    assert capsys.readouterr().err == "sft.packed_tokens=0 must be above 0; give a larger number\n"


def test_a_missing_folder(harness: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("data=local", "data.path=/no/such/folder", "feedback=metric") == 2
    assert capsys.readouterr().err == ("data.path=/no/such/folder does not exist; give an existing file or folder\n")


@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["alone", "sweep"])
@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("output_dir=file", "File exists"),
        ("output_dir=file/x", "Not a directory"),
        ("output_dir=/proc/x", "No such file or directory"),
        ("output_dir=/proc", "No such file or directory"),
        ("output_dir=", None),
        ("output_dir=''", None),
        ("hydra.{}.dir=file", "File exists"),
        ("hydra.{}.dir=file/x/y", "Not a directory"),
        ("hydra.{}.dir=", None),
    ],
)
def test_a_folder_that_cannot_be_written_is_found_before_any_work(
    typed: str, reason: str | None, sweep: list[str], harness: Callable[..., int], capsys: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    typed = typed.format("sweep" if sweep else "run")
    assert harness("task=qa", "experiment=smoke", "hardware.threads=1", typed, *sweep) == 2
    rule = f" cannot be used ({reason}); give a folder that can be made and written"
    if reason is None:
        rule = " names no folder; give one such as runs, or leave it out"
    assert capsys.readouterr().err == f"{typed.strip(QUOTE)}{rule}\n"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["file"]


QUOTE = "'"


@pytest.mark.parametrize(
    ("feedback", "share", "message"),
    [
        ("metric", "rl=0", "data.shares.rl=0.0 must be above 0; give a share such as 0.2\n"),
        ("metric", "preference=0", "data.shares.preference=0.0 must be above 0; give a share such as 0.2\n"),
        ("metric", "judge=-1", "data.shares.judge=-1.0 is no share; give a number of at least 0, such as 0.2\n"),
        ("pairs", "sft=0", "data.shares.sft=0.0 must be above 0; give a share such as 0.2\n"),
        (
            "pairs",
            "preference=0",
            "judge.responses=mixture needs a controlled world; use judge.responses=samples or pairs\n",
        ),
    ],
)
def test_a_split_that_is_read_needs_a_share(
    feedback: str, share: str, message: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("data=local", "data.path=.", "data.pairs_path=.", f"feedback={feedback}", f"data.shares.{share}")
    assert harness(*given) == 2
    assert capsys.readouterr().err == message


IN_A_PROCESS = """
import sys
from harness.cli import main
status = main()
heavy = [name for name in ("torch", "transformers", "datasets", "evaluate", "pandas", "scipy") if name in sys.modules]
print(*heavy)
raise SystemExit(status)
"""


@pytest.mark.parametrize(
    "typed",
    [
        *("sft.epoch=1", "sft.epochs=abc", "feedback.noise=2", "task=nope", "algorithm.minibatch_size=12"),
        *("reward_model=load reward_model.path=/no/such/folder", "--help"),
        "task=translate data=local data.path=train.csv feedback=metric judge=none data.columns.text=en",
    ],
)
def test_a_mistake_costs_no_heavy_import(typed: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("en,de\none,eins\n")
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, *typed.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if typed == "--help" else 2)
    assert done.stdout.splitlines()[-1] == ""
    assert len(done.stderr.splitlines()) == (0 if typed == "--help" else 1)
    assert "Traceback" not in done.stderr


def test_an_unknown_flag_is_refused(harness: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        harness("--nope")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("unrecognized arguments: --nope")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["task=glob(zzz*)"], "task=glob(zzz*) gives no job; write a value, or a pattern that some choice matches"),
        (["task=glob(*)", "--cfg", "job"], "the command line cannot be used (Only one of --run, --multirun, --cfg,"),
        (["seed=range(1,3,0)"], "the command line cannot be used (range() arg 3 must not be zero);"),
    ],
)
def test_a_sweep_of_no_job_is_said(
    typed: list[str], message: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness("-m", *typed) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    ("limit", "rule"),
    [
        ("nope: 5", "nope=5 is not a split; use sft, preference, judge, rl, validation, test"),
        ("sft: -1", "sft=-1 must be above 0; give a larger number, or leave it out"),
    ],
)
def test_a_limit_of_rows_names_a_split_and_leaves_some(
    limit: str, rule: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("data=local", "data.path=.", "feedback=metric", "judge=none", "plan=true")
    assert harness(*given, f"data.limits={{{limit}}}") == 2
    assert capsys.readouterr().err == f"data.limits.{rule}\n"


def test_what_may_not_be_read_is_a_message(
    harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything: the system's answer is put in its place."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/train.csv").write_text("document,summary\na,b\n")
    columns = ("data.columns.source=document", "data.columns.response=summary")
    shares = ("data.shares.validation=0.1", "data.shares.test=0.1")
    given = ("task=summarize", "data=local", "feedback=metric", "judge=none", "hardware.threads=1", *columns, *shares)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: Path(path).name != "rows")
        assert harness(*given, "data.path=rows") == 2
    assert capsys.readouterr().err == "data.path=rows cannot be read (Permission denied); correct its permissions\n"
    with monkeypatch.context() as patched:
        refused = PermissionError(13, "Permission denied", "rows/train.csv")
        patched.setattr(graph, "files_identity", lambda paths: (_ for _ in ()).throw(refused))
        assert harness(*given, "data.path=rows") == 2
    assert capsys.readouterr().err.endswith(
        "rows/train.csv cannot be used (Permission denied); correct its permissions\n"
    )


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        (["task=qa", "--info", "config"], ["--info", "config", "task=qa"]),
        (["--info", "task=qa"], ["--info", "all", "task=qa"]),
        (["task=qa", "-i"], ["-i", "all", "task=qa"]),
        (["a=1", "-m", "b=2", "--config-dir", "own", "c=3"], ["-m", "--config-dir", "own", "a=1", "b=2", "c=3"]),
        (["task=qa", "--experimental-rerun", "job.pickle"], ["--experimental-rerun", "job.pickle", "task=qa"]),
        (["task=qa", "--config-dir"], ["task=qa", "--config-dir"]),
    ],
)
def test_flags_keep_their_values_wherever_they_stand(typed: list[str], ordered: list[str]) -> None:
    assert cli._flags_first(typed) == ordered


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-m", "hydra.sweeper=null"], "the command line cannot be used (Hydra sweeper is not configured);"),
        (["-m", "hydra.sweeper.params={a: 1}"], "the command line cannot be used ('NoneType' object"),
        (["task._target_=nope.X"], "task._target_=nope.X is no class that can be imported; give package.module.Class"),
        (["candidate=[a]"], "candidate=[a] is not a text; quote it: 'candidate=\"TEXT\"'\n"),
        (["seed=1", "--config-dir", "conf", "task=nope"], "task=nope is not a choice; choose dialogue,"),
        (["seed=1", "--config-dir", "nowhere", "task=qa"], "Additional config directory"),
    ],
)
def test_what_hydra_trips_over_is_a_message(
    typed: list[str], message: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "conf").mkdir()
    assert harness(*typed) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": "document,summary\n"}, "rows/train.csv has no rows; give a file with data in it"),
        (
            {"train.csv": "document,summary\na,b\n", "test.jsonl": ""},
            "rows/test.jsonl has no rows; give a file with data in it",
        ),
        (
            {"train.csv": "document,summary\na,b\n"},
            "data.files.validation is needed: no file holds validation rows;"
            " name the file, or set data.shares.validation=0.1",
        ),
    ],
)
def test_a_file_that_is_empty_or_missing_leaves_no_row(
    files: dict[str, str], message: str, harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    for name, text in files.items():
        (tmp_path / "rows" / name).write_text(text)
    columns = ("data.columns.source=document", "data.columns.response=summary")
    assert harness("task=summarize", "data=local", "data.path=rows", "feedback=metric", "judge=none", *columns) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{message}\n")
    assert not Path("runs/records").exists()


def test_an_overlay_that_is_not_utf_8(harness: Callable[..., int], capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_bytes(b"# @package _global_\ncandidate: \xe9t\xe9\n")
    assert harness("--config-dir", "conf", "experiment=mine", "task=qa") == 2
    assert capsys.readouterr().err == (
        "conf/experiment/mine.yaml is not UTF-8 (invalid continuation byte); save it as UTF-8\n"
    )


def test_help_knows_a_folder_of_ones_own_and_the_version_is_ours(
    harness: Callable[..., int], capsys: Any, tmp_path: Path
) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\ncandidate: my own\n")
    assert harness("--config-dir", "conf", "experiment=mine", "--help") == 0
    assert "\ncandidate: my own\n" in capsys.readouterr().out
    assert harness("--version") == 0
    assert re.fullmatch(r"rlhf-harness \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_mistake_in_a_sweep_is_found_before_any_job(
    harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert harness("-m", "seed=1,2,x") == 2
    assert capsys.readouterr().err == "seed=x is not a whole number; give one such as 8\n"
    assert not (tmp_path / "runs" / "stages").exists()


# ---- help and plan


def test_help_shows_groups_and_keys(harness: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("task=qa", "--help") == 0
    out = capsys.readouterr().out
    assert "schema" not in out
    for name in GROUPS:
        group, option = name.split("/")
        line = next(line for line in out.splitlines() if line.startswith(f"  {group}: "))
        assert option in line.removeprefix(f"  {group}: ").split(", ")
    assert "main_metric: f1" in out
    assert "kl_coef: 0.05" in out
    assert not (Path.cwd() / "runs").exists()


def test_the_plan_is_shown_and_nothing_is_done(
    harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert harness("experiment=smoke", "task=qa", "plan=true", "hardware.threads=1") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "Plan"
    assert lines[1].split() == ["stage", "fingerprint", "cached", "parameters", "memory", "(MB)", "tokens"]
    end = lines.index("Memory by role (MB)")
    rows = {line[:26].rstrip(): line[26:].split() for line in lines[3:end]}
    assert {"data", "judge", "sft", "feedback", "reward_model", "ppo", "evaluation of candidate"} <= set(rows)
    assert all(cells[1] == "no" for cells in rows.values())
    heads = re.split(r" {2,}", lines[end + 1])
    assert heads[:4] == ["stage", "policy", "reference", "reward model"]
    roles = {line.split()[0]: line.split()[1:] for line in lines[end + 3 :] if not line.startswith("evaluation")}
    held = dict(zip(heads[1:], roles["ppo"], strict=True))
    assert held["policy"] == held["reference"]
    assert held["judge"] == "-"
    peak = float(rows["ppo"][3].replace(",", ""))
    assert 550 < peak <= sum(float(size.replace(",", "")) for size in held.values() if size != "-") + len(held)
    assert not list(tmp_path.rglob("manifest.json"))


def test_an_algorithm_without_keys_of_its_own_is_one_class_and_one_yaml(
    harness: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    added = tmp_path / "conf/algorithm/mine.yaml"
    added.parent.mkdir(parents=True)
    added.write_text("_target_: harness.training.untrained.Untrained\nname: mine\n")
    given = ("--config-dir", str(tmp_path / "conf"), "task=qa", "experiment=smoke", "algorithm=mine")
    assert harness(*given, "plan=true") == 0
    assert "\nmine " in capsys.readouterr().out
    assert harness(*given, "algorithm.kl_coef=0.1") == 2
    assert "algorithm.kl_coef=0.1" in capsys.readouterr().err
