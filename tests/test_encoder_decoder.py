"""The whole loop on encoder–decoder models from disk: they go in, are trained, scored and saved like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from smoke_run import smoke_run

from harness.records import read_records

pytestmark = pytest.mark.extended

SMALL = (
    "algorithm.checks.limits.max_length_share=null",
    "sft.epochs=1",
    "feedback=metric",
    "algorithm.episodes=32",
    "data.sizes.sft=256",
    "feedback.max_pairs=32",
    "judge.sft_epochs=0.5",
)
LIMITS = ("task.max_prompt_tokens=90", "task.max_response_tokens=30")
OPTIMIZERS = ("sft.optimizer={kind: muon, lr: 5e-3}", "judge.backbone_optimizer={kind: adamw, lr: 5e-3}")


@pytest.fixture(scope="module")
def world_texts() -> list[str]:
    """What the translation world says, for tokenizers."""
    from harness.tasks.worlds.grammar import Grammar

    world, rng, texts = Grammar(), Random(0), []
    for _ in range(150):
        draw = world.draw(rng)
        texts += [f"{draw.fields['source']}\nGerman:", world.demonstrate(draw.facts, rng).response]
    return texts


@pytest.fixture(scope="module")
def base(family_folder: Callable[..., Path], world_texts: list[str]) -> Callable[[str], Path]:
    """Family -> the folder of a tiny random model whose tokenizer knows the world's words."""
    room = {"t5": {}, "bart": {"max_position_embeddings": 160}, "marian": {}}
    return lambda family: family_folder(family, texts=world_texts, peaked=False, **room[family])


@pytest.fixture(scope="module")
def finished(base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy and its reward model of one family, a judge of another one: T5 judged by Marian, and the reverse."""
    folders = {}
    for family, judge, value in (("t5", "marian", "separate"), ("marian", "bart", "head")):
        folder = folders[family] = tmp_path_factory.mktemp(f"run-{family}")
        given = ["task=translate", "model=hf", f"model.name={base(family)}", "judge.model.kind=hf"]
        given += [f"judge.model.name={base(judge)}", f"algorithm.value.kind={value}", f"output_dir={folder}"]
        assert smoke_run(*given, *SMALL, *LIMITS, *OPTIMIZERS, f"candidate={family}") == 0
    return folders


def candidate(folder: Path) -> Any:
    return next(record for record in read_records(folder / "records") if not record["fixed"])


def models(folder: Path) -> dict[str, Path]:
    return {path.parent.name.rpartition("-")[0]: path for path in (folder / "stages").glob("*/model")}


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_the_loop_ends_with_every_row(finished: dict[str, Path], family: str) -> None:
    row = candidate(finished[family])
    assert row["status"] == "ok"
    assert row["report_card"]["pairs"] > 0
    assert abs(row["scalars"]["kl"]) > 1e-6  # an estimate from 16 samples: a policy that hardly moved may land below 0
    assert row["win_rates"]["judge"] is not None
    assert row["win_rates"]["proxy"] is not None
    fixed = {record["candidate"] for record in read_records(finished[family] / "records") if record["fixed"]}
    assert fixed == {"references", "base", "sft", "sft-more", "best-of-n", "copy-input", "empty", "longest"}


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_the_final_policy_says_the_same_in_transformers(finished: dict[str, Path], family: str) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = models(finished[family])["ppo"]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    samples = candidate(finished[family])["samples"][:4]
    inputs = tokenizer([sample["prompt"] for sample in samples], return_tensors="pt", padding=True)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=30)
    texts = [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    assert texts == [sample["after"] for sample in samples]


def test_cards_say_how_such_a_model_is_used(finished: dict[str, Path]) -> None:
    from huggingface_hub import ModelCard

    policy = ModelCard.load(models(finished["t5"])["ppo"] / "README.md")
    assert policy.data.pipeline_tag == "translation"
    assert "AutoModelForSeq2SeqLM" in policy.text
    assert '"text_pair": RESPONSE' in ModelCard.load(models(finished["t5"])["reward_model"] / "README.md").text
    assert "score.weight" in ModelCard.load(models(finished["marian"])["reward_model"] / "README.md").text


def test_the_code_on_the_card_gives_the_score(finished: dict[str, Path], hardware: Any) -> None:
    """A Marian reward model's card is run as it stands, against the stage's own scorer."""
    import re

    import torch

    from harness.models.scorer import Scorer

    folder = models(finished["marian"])["reward_model"]
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.S)
    *lines, last = code.strip().splitlines()
    names: dict[str, Any] = {"FOLDER": folder, "PROMPT": "the dog sees a cat", "RESPONSE": "der Hund", "torch": torch}
    exec("\n".join(lines), names)
    shift = json.loads((folder / "config.json").read_text())["reward_shift"]
    ours = Scorer.load(folder, hardware).score_texts([names["PROMPT"]], [names["RESPONSE"]])
    assert float(eval(last, names).detach()) - shift == pytest.approx(ours[0], abs=1e-4)


def test_finished_models_take_every_stages_place(finished: dict[str, Path], tmp_path: Path) -> None:
    """Policies of T5, scored against a BART judge's kind of model and a Marian reward model, which reads texts."""
    theirs, others = models(finished["t5"]), models(finished["marian"])
    given = ["sft=load", f"sft.path={theirs['sft']}", "algorithm=load", f"algorithm.path={theirs['ppo']}"]
    given += ["judge=load", f"judge.path={others['judge']}", "reward_model=load"]
    given += [f"reward_model.path={others['reward_model']}", "task=translate", f"output_dir={tmp_path}"]
    given += ["feedback=metric", "feedback.max_pairs=32", "evaluation.fixed_rows=[references]"]
    assert smoke_run(*given, *LIMITS, "candidate=theirs") == 0
    row = candidate(tmp_path)
    assert row["status"] in ("ok", "unchanged")
    assert row["win_rates"]["proxy"] is not None
    before = candidate(finished["t5"])["metrics"]["chrf"]
    assert row["metrics"]["chrf"]["after"] == pytest.approx(before["after"])


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_the_plan_counts_their_parameters(base: Callable[[str], Path], family: str) -> None:
    from harness.config import ModelConfig
    from harness.models.loading import load_language_model, load_scorer, parameter_count
    from harness.models.shape import shape_of

    shape = shape_of(ModelConfig(kind="hf", name=str(base(family))))
    assert shape is not None
    assert shape.parameters == parameter_count(load_language_model(base(family)).model)
    assert shape.scorer_parameters == parameter_count(load_scorer(base(family), head_seed=0).model)


def test_adapters_go_through_the_loop_too(base: Callable[[str], Path], tmp_path: Path) -> None:
    """A BART with adapters alone on disk: policy, reward model and value network on one base."""
    pytest.importorskip("peft")
    given = ["task=translate", "model=hf", f"model.name={base('bart')}", "model.lora.rank=4", "model.lora.merge=false"]
    given += ["judge=none", "evaluation.fixed_rows=[references,sft]", "sft.optimizer={kind: adamw, lr: 1e-2}"]
    given += [
        "reward_model.optimizer={kind: adamw, lr: 1e-2}",
        "algorithm.optimizer.lr=1e-2",
        f"output_dir={tmp_path}",
        "candidate=adapters",
    ]
    small = [override for override in SMALL if not override.startswith("judge.")]
    assert smoke_run(*given, *small, *LIMITS) == 0
    assert candidate(tmp_path)["status"] in ("ok", "unchanged")
    assert (models(tmp_path)["reward_model"] / "adapter_config.json").is_file()


def test_a_ready_set_up_runs_to_its_end(
    base: Callable[[str], Path], in_process: Callable[..., Callable[..., int]], tmp_path: Path
) -> None:
    """``experiment=multi30k_t5_small`` with rows on disk for the hub's, a tiny T5 for the hub's, and a few steps."""
    from harness import cli
    from harness.tasks.worlds.grammar import Grammar

    world, rng = Grammar(), Random(1)
    draws = [world.draw(rng) for _ in range(500)]
    rows = [{"en": draw.fields["source"], "de": world.demonstrate(draw.facts, rng).response} for draw in draws]
    (tmp_path / "data").mkdir()
    for name, part in {"train": rows[:440], "validation": rows[440:480], "test": rows[480:]}.items():
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    given = ["experiment=multi30k_t5_small", "data=local", f"data.path={tmp_path / 'data'}", f"output_dir={tmp_path}"]
    given += [f"model.name={base('t5')}", f"judge.model.name={base('t5')}", "sft.max_steps=8", "judge.sft_epochs=0.5"]
    for part, pairs in (("feedback", 24), ("judge", 24)):
        given += [f"{part}.max_pairs={pairs}", f"{part}.heldout_pairs=12", f"{part}.min_pairs=2"]
    given += ["algorithm.episodes=16", "algorithm.batch_size=16", "algorithm.minibatch_size=8", "algorithm.epochs=1"]
    given += ["algorithm.checks={probes: 1, probe_prompts: 8, skip_gates: [accuracy]}", "hardware.threads=1"]
    given += ["algorithm.checks.limits.max_length_share=null", "evaluation.fixed_rows=[references,sft]"]
    given += ["evaluation.resamples=100", "hardware.workers=1", "hardware.device=cpu", "tracker=plain", "candidate=t5"]
    assert in_process(cli.main)(*given) == 0
    row = candidate(tmp_path)
    assert row["status"] in ("ok", "unchanged")
    assert row["config"]["task"]["template"] == "translate English to German: {source}"
    assert all(sample["prompt"].startswith("translate English to German: ") for sample in row["samples"])
    assert row["n_examples"] == 20
    assert (models(tmp_path)["ppo"] / "README.md").is_file()
