"""Which models the plan counts in each stage where adapters are trained: one base, and what is put on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import register_schemas
from harness.footprint import Phase, by_role
from harness.models.shape import Shape, shape_of
from harness.pipeline import make_job
from harness.stage_memory import Memory

pytest.importorskip("peft")
LORA = ("model.lora.rank=4", "sft.optimizer.kind=adamw", "reward_model.optimizer.kind=adamw")
MODELS = ("base", "policy", "reference", "reward model", "value", "judge", "adapters", "best policy")


def composed(*overrides: str) -> Any:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    register_schemas()
    given = ["experiment=smoke", "task=qa", "hardware.threads=1", "hardware.device=cpu", *overrides]
    with initialize_config_module("harness.conf", version_base="1.3"):
        return OmegaConf.to_object(compose("config", overrides=given))


class Plan:
    """The memory of a job's stages, and its sizes in bytes: P of the base, S of a classifier, A and H trained."""

    def __init__(self, *overrides: str) -> None:
        config = composed(*overrides)
        job = make_job(config)
        shape, judge = shape_of(config.model), shape_of(config.judge.model)
        assert shape is not None
        assert judge is not None
        self.memory, self.shape, self.judge = Memory(job, shape, judge), shape, judge
        self.P, self.S = 4 * shape.parameters, 4 * shape.scorer_parameters
        self.A, self.H = 4 * shape.trained, 4 * shape.scorer_trained

    def phases(self, stage: str, row: str | None = None, *, loaded: bool = False) -> list[Phase]:
        found: Any = SimpleNamespace(name=stage, config={"row": row})
        return self.memory.phases(found, loaded=loaded)

    def models(self, stage: str, row: str | None = None, *, loaded: bool = False) -> dict[str, float]:
        """The roles that are models, each at its most."""
        found = by_role(self.phases(stage, row, loaded=loaded))
        return {role: found[role] for role in MODELS if role in found}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(*LORA)


@pytest.fixture(scope="module")
def judged(plan: Plan) -> dict[str, float]:
    """The judge, which is whole."""
    return {"judge": 4.0 * plan.judge.scorer_parameters}


def inside(shape: Shape) -> float:
    assert shape.adapters is not None
    return 4.0 * shape.adapters.inside


def test_training_stages_hold_a_base_an_adapter_and_what_a_merged_model_is_written_from(plan: Plan) -> None:
    assert plan.models("sft") == {"base": plan.P, "policy": inside(plan.shape), "adapters": 2 * plan.A}
    trunk = plan.P - 4 * plan.shape.head
    assert plan.models("reward_model") == {"base": trunk, "reward model": inside(plan.shape), "adapters": 2 * plan.H}
    for stage, trained in (("sft", plan.A), ("reward_model", plan.H)):
        roles = by_role(plan.phases(stage))
        assert (roles["gradients"], roles["optimiser"]) == (trained, 2 * trained)
    assert plan.models("feedback") == {"base": plan.P, "adapters": plan.A}


def test_nothing_is_merged_where_adapters_are_kept_alone() -> None:
    alone = Plan(*LORA, "model.lora.merge=false")
    assert alone.models("sft") == {"base": alone.P, "adapters": alone.A}
    assert "policy" not in alone.models("ppo")


def test_ppo_holds_one_base_for_four_roles(plan: Plan) -> None:
    found = plan.models("ppo")
    roles = 2 * plan.A + 2 * plan.H  # policy and reference; reward model and value
    assert found == {"base": plan.P, "policy": inside(plan.shape), "adapters": roles, "best policy": plan.A}
    updated = by_role(plan.phases("ppo"))
    assert (updated["gradients"], updated["optimiser"]) == (max(plan.A, plan.H), 2 * (plan.A + plan.H))
    head = Plan(*LORA, "algorithm.value.kind=head", "model.lora.merge=false")
    assert head.models("ppo")["adapters"] == 2 * plan.A + plan.H
    untrained = Plan(*LORA, "algorithm=none", "model.lora.merge=false")
    assert untrained.models("none") == {"base": plan.P, "adapters": 2 * plan.A + plan.H}


def test_policy_and_value_network_have_their_graphs_together_where_they_learn_at_the_same_time() -> None:
    plans = [Plan(f"hardware.threads={threads}", "algorithm.minibatch_size=32") for threads in (1, 2)]
    found = [by_role(plan.phases("ppo")) for plan in plans]
    assert found[1]["activations"] == 2 * found[0]["activations"]
    assert found[1]["logits"] == found[0]["logits"]
    policy, value = 4 * Plan().shape.parameters, 4 * Plan().shape.scorer_parameters
    assert [each["gradients"] for each in found] == [max(policy, value), policy + value]


def test_a_given_reward_model_is_whole_and_has_an_adapter_where_the_value_starts_from_it(plan: Plan) -> None:
    phases = Plan(*LORA, "model.lora.merge=false")
    phases.memory.job.config.reward_model.source = "load"
    assert phases.models("reward_model", loaded=True) == {"reward model": plan.S}
    found = phases.models("ppo")
    assert (found["reward model"], found["adapters"]) == (plan.S, 2 * plan.A + 2 * plan.H)
    phases.memory.job.config.algorithm.value.kind = "head"  # type: ignore[attr-defined]
    assert phases.models("ppo")["adapters"] == 2 * plan.A


@pytest.mark.parametrize("given", [False, True])
def test_evaluation_holds_what_each_row_needs(given: bool, plan: Plan, judged: dict[str, float]) -> None:
    made = Plan(*LORA)
    made.memory.job.config.sft.source = "load" if given else "train"
    sft = {} if given else {"adapters": plan.A}  # a policy that was given is the base
    base = {"base": plan.P, **judged}
    assert made.models("evaluation", "base") == base
    assert made.models("evaluation", "sft") == {**base, **sft}
    assert made.models("evaluation", "best-of-n") == {**base, "adapters": sum(sft.values()) + plan.H}
    assert made.models("evaluation", "sft-more") == {**base, "adapters": plan.A}
    assert made.models("evaluation") == {**base, "adapters": plan.A + sum(sft.values()) + plan.H}
    assert made.models("evaluation", "references") == judged
    assert made.models("feedback") == {"base": plan.P, **sft}
    assert made.models("sft", loaded=True) == {"policy": plan.P}


def test_a_finished_policy_shares_no_base(plan: Plan, judged: dict[str, float]) -> None:
    made = Plan(*LORA)
    made.memory.job.config.algorithm = composed("algorithm=load", "algorithm.path=FOLDER").algorithm
    assert made.models("load", loaded=True) == {"policy": plan.P}
    found = made.models("evaluation")
    assert found == {"policy": plan.P, "base": plan.P, "adapters": plan.A, **judged}


def test_a_judge_has_its_own_base_and_adapters(plan: Plan) -> None:
    made = Plan(*LORA, "judge.model.lora.rank=2")
    shape = made.judge
    found, trained, scored = made.models("judge"), 4 * shape.trained, 4 * shape.scorer_trained
    assert found["base"] == 4 * shape.parameters
    assert found["adapters"] == max(trained + scored, 2 * scored)  # beside its backbone, or while it is merged
    trunk = 4 * (shape.parameters - shape.head)
    beside = {"base": plan.P, "judge": trunk, "adapters": plan.A + scored}
    assert made.models("evaluation", "sft") == beside
    assert "adapters" not in plan.models("judge")


def test_a_quantised_base_is_not_what_a_given_policy_is_copied_from() -> None:
    made = Plan(*LORA, "model.lora.merge=false")
    made.memory.__dict__["shape"] = made.shape._replace(quantization="4bit")
    assert made.models("ppo")["base"] < 0.7 * made.P
    assert made.models("sft", loaded=True) == {"policy": made.P}
