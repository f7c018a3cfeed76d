"""TRL's side: its SFTTrainer, RewardTrainer and PPOTrainer on the same models, tokens and settings.

Runs in an environment of its own (``benchmarks.trl_environment``), with what transformers and TRL take for granted:
dropout as the checkpoint says where the trainer leaves it on (SFT), activations as the checkpoint names them. Gradient
checkpointing, which their newest defaults switch on to save memory at the cost of time, is off.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.materials import read_rows
from benchmarks.worker import Prepare, Prepared, serve

Request = Mapping[str, Any]


def load() -> Mapping[str, Prepare]:
    """Import what the stages run on."""
    import datasets
    import torch
    import transformers
    from trl import RewardTrainer, SFTTrainer  # noqa: F401
    from trl.experimental.ppo import PPOTrainer  # noqa: F401

    torch.set_num_threads(int(os.environ["HARNESS_BENCHMARK_THREADS"]))
    datasets.disable_progress_bars()
    datasets.disable_caching()
    transformers.logging.set_verbosity_error()
    return {"sft": sft, "reward_model": reward_model, "ppo": ppo}


def sft(request: Request) -> Prepared:
    """Steps of plain language modelling: every token but the first counts."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = read_rows(request["rows"])
    config = SFTConfig(
        max_steps=len(rows) // request["batch_size"],
        per_device_train_batch_size=request["batch_size"],
        max_length=max(len(row["input_ids"]) for row in rows),
        **({} if request.get("loss") is None else {"loss_type": request["loss"]}),
        **_shared(request),
    )
    trainer = SFTTrainer(
        model=_language_model(request["model"], request["seed"]),
        processing_class=_tokenizer(request["model"], "right"),
        train_dataset=Dataset.from_list(rows),
        args=config,
    )

    count = _counting(trainer)

    def train() -> dict[str, Any]:
        done = trainer.train()
        seen = {"updates": trainer.state.global_step, "tokens": count["labels"], "learning_rate": _last_rate(trainer)}
        return {"seen": seen, "work": count["tokens"], "loss": done.training_loss}

    return Prepared(train, lambda folder: trainer.save_model(str(folder)))


def reward_model(request: Request) -> Prepared:
    """Steps of Bradley–Terry training on pairs, from the SFT policy."""
    from datasets import Dataset
    from transformers import set_seed
    from trl import RewardConfig, RewardTrainer

    rows = [
        {"chosen_ids": row["prompt"] + row["chosen"], "rejected_ids": row["prompt"] + row["rejected"]}
        for row in read_rows(request["rows"])
    ]
    config = RewardConfig(
        max_steps=len(rows) // request["batch_size"],
        per_device_train_batch_size=request["batch_size"],
        max_length=max(len(ids) for row in rows for ids in row.values()),
        **_shared(request),
    )
    set_seed(request["seed"])  # before the model: its head is new
    trainer = RewardTrainer(
        model=_classifier(request["model"]),
        processing_class=_tokenizer(request["model"], "right"),
        train_dataset=Dataset.from_list(rows),
        args=config,
    )

    count = _counting(trainer)

    def train() -> dict[str, Any]:
        done = trainer.train()
        pairs = count["rows"] // 2  # chosen and rejected ones
        seen = {"updates": trainer.state.global_step, "pairs": pairs, "tokens": count["tokens"]}
        return {
            "seen": {**seen, "learning_rate": _last_rate(trainer)},
            "work": pairs,
            "loss": done.training_loss,
        }

    return Prepared(train, lambda folder: trainer.save_model(str(folder)))


def ppo(request: Request) -> Prepared:
    """PPO with a value network of its own; every response is as long as the limit, as no token ends one."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    rows = Dataset.from_list(read_rows(request["rows"]))
    config = PPOConfig(
        per_device_train_batch_size=request["batch_size"],
        num_mini_batches=request["batch_size"] // request["minibatch_size"],
        num_ppo_epochs=request["epochs"],
        total_episodes=request["episodes"],
        response_length=request["response_tokens"],
        temperature=request["temperature"],
        kl_coef=request["kl_coef"],
        stop_token=None,
        num_sample_generations=0,
        **(
            {}
            if request.get("rollout_batch") is None
            else {"local_rollout_forward_batch_size": request["rollout_batch"]}
        ),
        **_shared(request),
    )
    policy = _language_model(request["model"], request["seed"])
    trainer = PPOTrainer(
        args=config,
        processing_class=_tokenizer(request["model"], "left"),
        model=policy,
        ref_model=_language_model(request["model"], request["seed"]),
        reward_model=_classifier(request["reward_model"]),
        value_model=_classifier(request["reward_model"]),
        train_dataset=rows,
        eval_dataset=rows.select(range(min(len(rows), 8))),
    )
    logged: list[dict[str, float]] = []
    generating = [0.0]
    count: Counter[str] = Counter()
    generate, log, step = ppo_trainer.batch_generation, trainer.log, trainer.optimizer.step

    def timed_generate(model: Any, queries: Any, *values: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = generate(model, queries, *values, **named)
        generating[0] += time.perf_counter() - started
        count["episodes"] += len(result[0])
        count["tokens"] += result[0].numel() - queries.numel()
        return result

    def counted_step(*values: Any, **named: Any) -> Any:
        count["updates"] += 1
        return step(*values, **named)

    def count_rows(_model: Any, _values: Any, named: Mapping[str, Any]) -> None:
        count["rows_learned_from"] += len(named["input_ids"])

    def kept_log(row: dict[str, float], *values: Any, **named: Any) -> Any:
        logged.append(dict(row))
        return log(row, *values, **named)

    def train() -> dict[str, Any]:
        trainer.log, ppo_trainer.batch_generation = kept_log, timed_generate
        trainer.optimizer.step = counted_step
        trainer.model.register_forward_pre_hook(count_rows, with_kwargs=True)  # policy and value: updates alone
        try:
            trainer.train()
        finally:
            ppo_trainer.batch_generation = generate
        scores = [row["objective/scores"] for row in logged if "objective/scores" in row]
        seen = {**count, "learning_rate": _last_rate(trainer)}
        return {"seen": seen, "work": count["episodes"], "scores": scores, "seconds_rollout": generating[0]}

    def save(folder: Path) -> None:
        policy.save_pretrained(folder)
        _tokenizer(request["model"], "left").save_pretrained(folder)

    return Prepared(train, save)


def _counting(trainer: Any) -> Counter[str]:
    """Have a trainer's steps counted: ``rows``, real ``tokens``, and ``labels`` that a token before them predicts."""
    count: Counter[str] = Counter()
    step = trainer.training_step

    def counted_step(model: Any, inputs: Mapping[str, Any], *values: Any, **named: Any) -> Any:
        mask = inputs["attention_mask"]
        count["rows"] += len(mask)
        count["tokens"] += int(mask.sum())
        if "labels" in inputs:
            count["labels"] += int((inputs["labels"][:, 1:] != -100).sum())
        return step(model, inputs, *values, **named)

    trainer.training_step = counted_step
    return count


def _last_rate(trainer: Any) -> float:
    return float(trainer.optimizer.param_groups[0]["lr"])


def _shared(request: Request) -> dict[str, Any]:
    """Training arguments of all three trainers.

    The learning rate is constant: TRL's PPO would lower it once per rollout, this harness once per minibatch.
    """
    return {
        "output_dir": mkdtemp(prefix="trl-"),
        "learning_rate": request["lr"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "seed": request["seed"],
        "bf16": request["precision"] == "bf16",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _tokenizer(path: str, padding_side: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, padding_side=padding_side)


def _language_model(path: str, seed: int) -> Any:
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    return AutoModelForCausalLM.from_pretrained(path, dtype="float32")


def _classifier(path: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype="float32")


if __name__ == "__main__":
    serve(load)
