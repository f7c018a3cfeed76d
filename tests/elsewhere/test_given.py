"""Models of another trainer in place of our stages: they are scored as they are, or refused before any work."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.given import require_files
from harness.records import read_records

pytestmark = pytest.mark.extended

Run = Callable[..., int]


@pytest.fixture(scope="module")
def tokenizer(other_trainer: Any) -> Any:
    return other_trainer.tokenizer()


@pytest.fixture(scope="module")
def sft(other_trainer: Any, tokenizer: Any) -> Path:
    return other_trainer.policy("sft", tokenizer, steps=40)


@pytest.fixture(scope="module")
def rlhf(other_trainer: Any, tokenizer: Any) -> Path:
    """As the SFT policy, trained longer, with a pad token of its own that the SFT policy lacks."""
    import copy

    padded = copy.deepcopy(tokenizer)
    padded.add_special_tokens({"pad_token": "[PAD]"})
    return other_trainer.policy("rlhf", padded, steps=60)


@pytest.fixture(scope="module")
def reward_model(other_trainer: Any) -> Path:
    """With a tokenizer of its own, whose EOS is another token and also the pad."""
    return other_trainer.reward_model("rm", other_trainer.tokenizer(size=350, eos="<end>", pad="<end>"))


@pytest.fixture(scope="module")
def judge(other_trainer: Any) -> Path:
    return other_trainer.reward_model("judge", other_trainer.tokenizer(size=330, pad="<pad>", bos=True), seed=1)


def two_policies(sft: Path, rlhf: Path, judge: Path, *more: str) -> list[str]:
    given = ["sft=load", f"sft.path={sft}", "algorithm=load", f"algorithm.path={rlhf}"]
    return [*given, "judge=load", f"judge.path={judge}", *more]


def stages(folder: Path) -> set[str]:
    return {path.parent.name.rpartition("-")[0] for path in (folder / "stages").glob("*/manifest.json")}


def rows(folder: Path) -> dict[str, Any]:
    return {record["candidate"]: record for record in read_records(folder / "records")}


def test_two_checkpoints_are_scored_before_and_after_with_one_command(
    harness: Run, own_data: list[str], sft: Path, rlhf: Path, judge: Path, tmp_path: Path
) -> None:
    given = two_policies(sft, rlhf, judge, "candidate=theirs", f"output_dir={tmp_path}")
    assert harness(*own_data, *given) == 0
    assert stages(tmp_path) == {"data", "sft", "judge", "load", "evaluation"}, "nothing that nobody needs"
    found = rows(tmp_path)
    assert set(found) == {"references", "copy-input", "empty", "longest", "sft", "theirs"}
    row = found["theirs"]
    assert (row["status"], row["algorithm"], row["feedback"], row["model"]) == ("ok", "load", "", "sft")
    assert row["flags"] == []
    assert row["win_rates"]["judge"] is not None
    assert row["win_rates"]["proxy"] is row["scalars"]["proxy_after"] is row["scalars"]["rm_accuracy"] is None
    assert abs(row["scalars"]["kl"]) > 1e-6
    assert row["metrics"]["chrf"]["before"] == pytest.approx(found["sft"]["metrics"]["chrf"]["after"])
    table = list(csv.DictReader((tmp_path / "leaderboard" / "leaderboard.csv").open(encoding="utf-8")))
    assert {line["candidate"] for line in table} == set(found)


def test_what_is_scored_is_what_the_checkpoints_say_elsewhere(
    harness: Run, own_data: list[str], sft: Path, rlhf: Path, judge: Path, tmp_path: Path
) -> None:
    """Greedy texts before and after, as plain transformers generates them from the folders that were given."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = two_policies(sft, rlhf, judge, "evaluation.fixed_rows=[references]", f"output_dir={tmp_path}")
    assert harness(*own_data, *given) == 0
    (candidate,) = (r for r in read_records(tmp_path / "records") if not r["fixed"])
    for side, folder in (("before", sft), ("after", rlhf)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for sample in candidate["samples"][:6]:
            ids = tokenizer(sample["prompt"], return_tensors="pt")["input_ids"]
            out = model.generate(ids, do_sample=False, max_new_tokens=40, pad_token_id=0)[0, ids.shape[1] :]
            assert sample[side] == tokenizer.decode(out, skip_special_tokens=True).strip()


def test_a_reward_model_and_pairs_beside_them_give_proxies_and_report_cards(
    harness: Run, own_data: list[str], sft: Path, rlhf: Path, judge: Path, reward_model: Path, tmp_path: Path
) -> None:
    path = own_data[2].partition("=")[2]
    given = two_policies(
        *(sft, rlhf, judge, "candidate=theirs", f"output_dir={tmp_path}"),
        *("reward_model=load", f"reward_model.path={reward_model}", "feedback=pairs"),
        *(f"data.pairs_path={path}/pairs.json", "feedback.min_pairs=1"),
        *(f"data.pairs_columns.{name}={name}" for name in ("source", "chosen", "rejected")),
    )
    assert harness(*own_data, *given) == 0
    row = rows(tmp_path)["theirs"]
    assert row["report_card"]["pairs"] > 1
    assert 0 <= row["scalars"]["judge_accuracy"] <= 100
    assert row["data_report"]["judge_report_card"]["pairs"] == row["report_card"]["pairs"]
    assert row["win_rates"]["proxy"] is not None
    assert "best-of-n" in rows(tmp_path)


def test_the_scores_of_another_trainers_reward_model_are_those_of_its_own_class(
    reward_model: Path, tokenizer: Any, hardware: Any
) -> None:
    """Its tokenizer pads with EOS, so its class reads the token before it; ours reads the same one, from any tokens."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from harness.models.codec import Codec
    from harness.models.loading import LanguageModel, save
    from harness.models.scorer import Scorer

    prompts = ["the red fox sees a wet dog\nGerman:", "a bird .\nGerman:"]
    responses = ["der rote Fuchs sieht", "ein Vogel ! Ünïcode"]
    theirs, read = AutoModelForSequenceClassification.from_pretrained(reward_model), Codec(tokenizer, "policy")
    own = AutoTokenizer.from_pretrained(reward_model)
    assert own.pad_token == own.eos_token
    expected = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = own(f"{prompt} {response}{own.eos_token}", return_tensors="pt")["input_ids"]
        expected.append(float(theirs(ids).logits[0, 0].detach()))
    scorer = Scorer.load(reward_model, hardware, reads=read)
    assert scorer.foreign is read
    tokens = read.encode_prompts(prompts), read.encode_responses(responses)
    np.testing.assert_allclose(scorer.scores(*tokens), expected, atol=1e-4)
    np.testing.assert_allclose(scorer.score_texts(prompts, responses), expected, atol=1e-4)
    kept = reward_model.parent / "kept"
    save(LanguageModel(scorer.model, scorer.codec), kept)
    np.testing.assert_allclose(Scorer.load(kept, hardware, reads=read).scores(*tokens), expected, atol=1e-4)
    with torch.inference_mode():
        np.testing.assert_allclose(Scorer.load(kept, hardware).score_texts(prompts, responses), expected, atol=1e-4)


def broken(folder: Path, source: Path, change: Callable[[Path], object]) -> Path:
    copy = folder / "broken"
    shutil.copytree(source, copy)
    change(copy)
    return copy


def edit(name: str, **entries: Any) -> Callable[[Path], object]:
    """Change entries of a JSON file in a folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return change


def without(*patterns: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return change


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def checkpoints(folder: Path) -> None:
    (folder / "checkpoint-20").mkdir()
    (folder / "config.json").rename(folder / "checkpoint-20" / "config.json")


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "an adapter": (
        "algorithm.path",
        adapter,
        "holds an adapter without its base; merge it (peft: merge_and_unload) and save the whole model",
    ),
    "the trainer's output folder": (
        "algorithm.path",
        checkpoints,
        "holds no config.json; did you mean {}/checkpoint-20?",
    ),
    "no weights": (
        "sft.path",
        without("*.safetensors"),
        "holds no safetensors weights; save it with save_pretrained of transformers, which writes them",
    ),
    "no tokenizer": (
        "judge.path",
        without("tokenizer*"),
        "could not be loaded (",
    ),
    "a context that is too short": (
        "algorithm.path",
        edit("config.json", max_position_embeddings=64),
        "knows 64 positions, fewer than task.max_prompt_tokens + task.max_response_tokens = 104; "
        "lower these to 64 together",
    ),
    "a policy in the place of a judge": (
        "judge.path",
        edit("config.json", architectures=["LlamaForCausalLM"]),
        "holds LlamaForCausalLM, no sequence classifier; give a reward model: a sequence classifier with one label",
    ),
    "a classifier that reads its first token": (
        "judge.path",
        edit("config.json", architectures=["BertForSequenceClassification"], model_type="bert"),
        "is a BertForSequenceClassification, which does not read its score off the last token; "
        "give a GPT-2, Llama, Qwen, NeoX, T5, BART or other such classifier",
    ),
    "an unknown architecture": (
        "algorithm.path",
        edit("config.json", model_type="frobnicator"),
        "could not be loaded (",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_one_message_before_any_work(
    name: str,
    harness: Run,
    own_data: list[str],
    sft: Path,
    rlhf: Path,
    judge: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key, change, message = REFUSED[name]
    source = {"sft.path": sft, "algorithm.path": rlhf, "judge.path": judge}[key]
    given = two_policies(sft, rlhf, judge, f"output_dir={tmp_path}/runs")
    path = broken(tmp_path, source, change)
    assert harness(*own_data, *given, f"{key}={path}") == 2
    captured = capfd.readouterr()
    assert captured.err.startswith(f"{key}={path} {message.format(path)}")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "runs" / "stages").exists()


def test_a_policy_with_another_tokenizer_than_the_sft_policys_is_refused(
    harness: Run,
    own_data: list[str],
    other_trainer: Any,
    sft: Path,
    judge: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    other = other_trainer.policy("other", other_trainer.tokenizer(size=380), steps=1)
    capfd.readouterr()
    assert harness(*own_data, *two_policies(sft, other, judge, f"output_dir={tmp_path}")) == 2
    assert capfd.readouterr().err == (
        f"algorithm.path={other} has another tokenizer than the SFT policy, with which it is compared token by token; "
        "give the SFT policy that it was trained from, or score it by itself: "
        f"sft=load sft.path={other} algorithm=none\n"
    )


def test_a_value_network_cannot_start_as_a_reward_model_that_reads_other_tokens(
    harness: Run,
    own_data: list[str],
    sft: Path,
    judge: Path,
    reward_model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = ("sft=load", f"sft.path={sft}", "judge=load", f"judge.path={judge}", "feedback=metric")
    given = (*given, "reward_model=load", f"reward_model.path={reward_model}", f"output_dir={tmp_path}")
    assert harness(*own_data, *given) == 2
    assert capfd.readouterr().err == (
        "algorithm.value.kind=separate starts as the reward model, whose tokenizer is another than the policy's; "
        "set algorithm.value.kind=head\n"
    )


def test_ppo_against_a_reward_model_that_reads_other_tokens(
    harness: Run, own_data: list[str], sft: Path, judge: Path, reward_model: Path, tmp_path: Path
) -> None:
    given = ("sft=load", f"sft.path={sft}", "judge=load", f"judge.path={judge}", "feedback=metric")
    given = (*given, "reward_model=load", f"reward_model.path={reward_model}", "algorithm.value.kind=head")
    few = ("algorithm.batch_size=32", "algorithm.minibatch_size=16", "algorithm.checks={probes: 2, probe_prompts: 16}")
    small = (
        *few,
        "algorithm.checks.skip_gates=[accuracy]",
        "algorithm.epochs=2",
        "feedback.max_pairs=16",
        "feedback.heldout_pairs=16",
        "feedback.min_pairs=1",
    )
    small = (*small, "evaluation.fixed_rows=[references]", "algorithm.episodes=32", "task.max_response_tokens=24")
    assert harness(*own_data, *given, *small, "candidate=ppo", f"output_dir={tmp_path}") == 0
    row = rows(tmp_path)["ppo"]
    assert row["status"] in ("ok", "unchanged", "collapsed")
    assert row["win_rates"]["proxy"] is not None


@pytest.mark.parametrize("content", ["[]", "3", "{", ""])
def test_a_configuration_that_is_no_object_is_a_message(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"^sft\.path=.* holds a config\.json that is no JSON object; give a folder"):
        require_files(tmp_path, "sft.path")
