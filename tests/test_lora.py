"""The whole loop with adapters, at smoke size: what is kept, what other tools make of it, and what is left alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from smoke_run import smoke_run

from harness.models.adapters import bare
from harness.progress import Progress
from harness.records import read_records
from harness.training.ppo_training import PPOTraining
from harness.training.updates import Updates

pytestmark = pytest.mark.extended

pytest.importorskip("peft")
FEW_ROWS = "evaluation.fixed_rows=[references,sft]"
LORA = (
    "model.lora.rank=4",
    "sft.optimizer={kind: adamw, lr: 1e-2}",
    "reward_model.optimizer={kind: adamw, lr: 1e-2}",
    "algorithm.optimizer.lr=1e-2",
)


def run_here(folder: Path, *arguments: str) -> int:
    """``python -m harness experiment=smoke task=qa …`` in this process; returns the exit status."""
    return smoke_run("task=qa", f"output_dir={folder}", *arguments)


def stage(folder: Path, name: str) -> Path:
    (found,) = (path.parent for path in folder.glob(f"stages/{name}-*/manifest.json"))
    return found


def summary(directory: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return made["summary"]  # type: ignore[no-any-return]


def candidate(folder: Path) -> Any:
    (found,) = (record for record in read_records(folder / "records") if not record["fixed"])
    return found


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained before: the SFT policy of a smoke run."""
    folder = tmp_path_factory.mktemp("base")
    assert run_here(folder, "algorithm=none", "judge=none", FEW_ROWS) == 0
    return stage(folder, "sft") / "model"


class Counted:
    """Bytes of the tensors that PPO really had, counted while it ran; what several roles share counts once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[str, int] = {}
        self.gradients: dict[int, int] = {}
        self.optimiser: dict[int, int] = {}
        start, step, best = PPOTraining._start, Updates.step, PPOTraining._best

        def counted_start(algorithm: Any, setup: Any) -> Any:
            state = start(algorithm, setup)
            roles = [setup.policy.model, setup.reference.model, setup.reward.model, state.value]
            base = {p.data_ptr(): p.nbytes for p in bare(setup.policy.model).parameters()}
            every = {p.data_ptr(): p.nbytes for role in roles for p in role.parameters()}
            own = sum(size for pointer, size in every.items() if pointer not in base)
            self.held = {"base": sum(base.values()), "adapters": own}
            self.gradients, self.optimiser = {}, {}  # of the stages before
            return state

        def counted_step(updates: Any) -> float:
            self.gradients[id(updates)] = sum(p.grad.nbytes for p in updates.parameters if p.grad is not None)
            norm = step(updates)
            states = [state for each in updates.optimizers for state in each.state.values()]
            self.optimiser[id(updates)] = sum(v.nbytes for s in states for v in s.values() if v.ndim)
            return norm

        def counted_best(algorithm: Any, *given: Any) -> Any:
            found = best(algorithm, *given)
            self.held["best policy"] = sum(tensor.nbytes for tensor in found[1].values())
            return found

        monkeypatch.setattr(PPOTraining, "_start", counted_start)
        monkeypatch.setattr(PPOTraining, "_best", counted_best)
        monkeypatch.setattr(PPOTraining, "_check_gates", lambda *_: [])  # which has updates of its own
        monkeypatch.setattr(Updates, "step", counted_step)

    def roles(self) -> dict[str, float]:
        # On one thread the value network learns after the policy.
        sums = {"gradients": max(self.gradients.values()), "optimiser": sum(self.optimiser.values())}
        return {**self.held, **sums}


def test_the_plan_counts_what_ppo_really_holds(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted, planned = Counted(monkeypatch), []
    monkeypatch.setattr(Progress, "memory", lambda _, rows: planned.extend(rows))
    asked = (*LORA, "model=hf", f"model.name={base}", "model.lora.merge=false", "judge=none", FEW_ROWS)
    assert run_here(tmp_path, *asked, "plan=true") == 0
    (row,) = (row for row in planned if row.stage == "ppo")
    assert f"{row.adapters:,}" in capsys.readouterr().out
    assert run_here(tmp_path, *asked) == 0
    found = counted.roles()
    assert {role: row.roles[role] for role in found} == pytest.approx({role: n / 1e6 for role, n in found.items()})
    assert row.adapters == summary(stage(tmp_path, "sft"))["adapter_parameters"]
    assert row.parameters == summary(stage(tmp_path, "sft"))["parameters"]


@pytest.fixture(scope="module")
def merged(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loop with adapters on that model, whole models kept."""
    folder = tmp_path_factory.mktemp("merged")
    before = digest(base)
    assert run_here(folder, "model=hf", f"model.name={base}", *LORA, "model.lora.dropout=0.1") == 0
    assert digest(base) == before
    return folder


def test_the_loop_ends_well(merged: Path, base: Path) -> None:
    record = candidate(merged)
    assert record["status"] == "ok"
    assert record["scalars"]["kl"] is not None
    stages = {path.parent.name.rpartition("-")[0] for path in merged.glob("stages/*/manifest.json")}
    assert stages == {"data", "sft", "feedback", "reward_model", "judge", "ppo", "evaluation"}
    for name in ("reward_model", "ppo"):
        settings = json.loads((stage(merged, name) / "adapter" / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(base)
        assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 32, 0.1)
        assert sorted(settings["target_modules"]) == ["c_attn", "c_fc", "c_proj"]
    for path in merged.glob("stages/sft-*"):  # SFT, and SFT continued
        known = summary(path)
        assert known["adapter_parameters"] == 4 * (64 + 3 * 64 + 64 + 64 + 2 * (64 + 4 * 64))  # width 64, one layer
        assert known["parameters"] > 10 * known["adapter_parameters"]


def test_transformers_gives_the_answers_that_were_scored(merged: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = stage(merged, "ppo") / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    (last,) = (path for path in merged.glob("stages/evaluation-*") if "judge_before" in first_scores(path))
    for line in (last / "samples.jsonl").read_text().splitlines()[:12]:
        row = json.loads(line)
        asked = tokenizer(row["prompt"], return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**asked, do_sample=False, max_new_tokens=len(row["after_tokens"]))
        assert out[0, asked["input_ids"].shape[1] :].tolist() == row["after_tokens"]


def first_scores(evaluation: Path) -> dict[str, float]:
    with (evaluation / "samples.jsonl").open() as file:
        scores: dict[str, float] = json.loads(file.readline())["scores"]
    return scores


def test_the_judge_has_a_backbone_of_its_own(merged: Path) -> None:
    judge = stage(merged, "judge")
    assert "lora" not in json.loads((judge / "manifest.json").read_text())["config"]["model"]
    assert (judge / "model" / "model.safetensors").is_file()
    assert not (judge / "adapter").exists()


def test_adapters_alone_are_kept_and_described(base: Path, tmp_path: Path) -> None:
    """The judge is adapted too here, on its own backbone, since its own configuration says so."""
    asked = (*LORA, "model.lora.merge=false", "judge.model.lora.rank=2", "judge.model.lora.merge=false")
    assert run_here(tmp_path, "model=hf", f"model.name={base}", *asked) == 0
    assert candidate(tmp_path)["status"] in ("ok", "unchanged", "collapsed")
    wholes = sorted(path.relative_to(tmp_path).parts[1].split("-")[0] for path in tmp_path.rglob("model.safetensors"))
    assert wholes == ["judge"]  # its base
    assert {path.parent.name for path in tmp_path.rglob("adapter_model.safetensors")} == {"model"}
    card = (stage(tmp_path, "reward_model") / "model" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "AutoPeftModelForSequenceClassification.from_pretrained(FOLDER_OR_REPOSITORY, num_labels=1)" in card
    assert "(in `classifier.json`)" in card
    assert "AutoPeftModelForCausalLM" in (stage(tmp_path, "ppo") / "model" / "README.md").read_text()


def test_a_finished_policy_is_a_base(base: Path, tmp_path: Path) -> None:
    asked = (*LORA, "sft=load", f"sft.path={base}", FEW_ROWS)
    assert run_here(tmp_path, *asked) == 0
    assert candidate(tmp_path)["status"] in ("ok", "unchanged", "collapsed")
    sft = stage(tmp_path, "sft") / "model"
    for name in ("reward_model", "ppo"):
        settings = json.loads((stage(tmp_path, name) / "adapter" / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(sft)
