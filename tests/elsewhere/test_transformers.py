"""What a run leaves, used through transformers alone: the same texts, the same scores."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.models.scorer import Scorer
from harness.records import read_records

pytestmark = pytest.mark.extended

RESPONSE_TOKENS = 40
"""``task.max_response_tokens`` of the task that the run was made on."""


@pytest.fixture(scope="module")
def samples(our_run: Path) -> list[dict[str, Any]]:
    """Test prompts with what the SFT policy (before) and the final one (after) answered greedily."""
    (record,) = (r for r in read_records(our_run / "records") if r["candidate"] == "ours")
    found: list[Any] = record["samples"]
    assert len({sample["after"] for sample in found}) > 1
    return found


@pytest.fixture(scope="module")
def texts(samples: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Prompts, and responses of mixed lengths, one of them empty."""
    prompts = [sample["prompt"] for sample in samples[:8]]
    responses = [sample["references"][0] if row % 2 else sample["after"] for row, sample in enumerate(samples[:7])]
    return prompts, [*responses, ""]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize(("stage", "side"), [("sft", "before"), ("ppo", "after")])
def test_a_pipeline_generates_the_texts_that_were_scored(
    our_models: dict[str, Path], samples: list[dict[str, Any]], stage: str, side: str, batch_size: int
) -> None:
    from transformers import pipeline

    generate = pipeline("text-generation", model=str(our_models[stage]))
    prompts = [sample["prompt"] for sample in samples]
    options = {"do_sample": False, "max_new_tokens": RESPONSE_TOKENS, "return_full_text": False}
    found = generate(prompts, batch_size=batch_size, **options)
    assert [text["generated_text"].strip() for (text,) in found] == [sample[side] for sample in samples]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("stage", ["reward_model", "judge"])
def test_a_classifier_gives_our_scores_up_to_the_shift_whatever_batch_and_padding(
    our_models: dict[str, Path], hardware: Any, texts: Any, stage: str, padding_side: str
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    prompts, responses = texts
    expected = Scorer.load(our_models[stage], hardware).score_texts(prompts, responses)
    assert expected.std() > 0.01
    model = AutoModelForSequenceClassification.from_pretrained(our_models[stage]).eval()
    tokenizer = AutoTokenizer.from_pretrained(our_models[stage], padding_side=padding_side)
    whole = [whole_text(*pair, tokenizer.eos_token) for pair in zip(prompts, responses, strict=True)]
    for size in (1, 3, 8):
        scores: list[float] = []
        for start in range(0, len(whole), size):
            batch = tokenizer(whole[start : start + size], padding=True, return_tensors="pt")
            if padding_side == "left" and "position_ids" not in batch:
                batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                scores += model(**batch).logits[:, 0].tolist()
        np.testing.assert_allclose(np.array(scores) - model.config.reward_shift, expected, atol=1e-4)


def whole_text(prompt: str, response: str, end: str) -> str:
    return f"{prompt} {response}{end}" if response else f"{prompt}{end}"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_text_classification_pipeline_as_rewardbench_runs_it(
    our_models: dict[str, Path], hardware: Any, texts: Any, batch_size: int
) -> None:
    """As in scripts/run_rm.py of allenai/reward-bench, for a tokenizer without a chat template.

    Nobody passes positions there, so the tokenizer must say on which side a batch is padded.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder, (prompts, responses) = our_models["reward_model"], texts
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side = "left"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    reward_pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert reward_pipe.tokenizer.pad_token_id is not None
    assert reward_pipe.model.config.pad_token_id == reward_pipe.tokenizer.pad_token_id
    reward_pipe.tokenizer.add_eos_token = True
    found = reward_pipe(
        [whole_text(*pair, "") for pair in zip(prompts, responses, strict=True)],
        batch_size=batch_size,
        truncation=True,
        padding=True,
        max_length=256,
        function_to_apply="none",
        return_token_type_ids=False,
    )
    scores = np.array([result["score"] for result in found]) - model.config.reward_shift
    np.testing.assert_allclose(scores, Scorer.load(folder, hardware).score_texts(prompts, responses), atol=1e-4)


@pytest.fixture(scope="module")
def server(our_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``transformers serve`` of the final policy on the loopback address; its address."""
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason="transformers serve needs transformers[serving], part of the extra dev")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    call = "from transformers.cli.transformers import main; main()"
    arguments = ["serve", str(our_models["ppo"]), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", call, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_transformers_serve_answers_with_the_policy(
    server: str, our_models: dict[str, Path], samples: list[dict[str, Any]]
) -> None:
    for sample in samples[:4]:
        asked = {
            "model": str(our_models["ppo"]),
            "prompt": sample["prompt"],
            "max_tokens": RESPONSE_TOKENS,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{server}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (choice,) = json.load(answer)["choices"]
        assert choice["text"].strip() == sample["after"]
