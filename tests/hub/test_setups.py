"""The ready set-ups against a hub on the loopback address: every model at its true size, every data set in its shape.

Sizes are the configurations' and the parameter counts the model cards'; nothing of a model is there but these.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from harness.hardware import cores

pytestmark = pytest.mark.extended

HERE = Path(__file__).parent
Client = Callable[[str, dict[str, Any]], dict[str, Any]]


def _module(name: str) -> Any:
    spec = spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def neox(width: int, layers: int, heads: int, vocabulary: int = 50304) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    more = {"intermediate_size": 4 * width, "vocab_size": vocabulary, "max_position_embeddings": 2048}
    return {"model_type": "gpt_neox", "rotary_pct": 0.25, "tie_word_embeddings": False, **sizes, **more}


def t5(width: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    sizes = {"d_model": width, "num_layers": layers, "num_heads": heads, "d_ff": inner, "d_kv": 64}
    return {"model_type": "t5", "is_encoder_decoder": True, "vocab_size": 32128, "decoder_start_token_id": 0, **sizes}


def bart(kind: str, width: int, layers: int, heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    made: dict[str, Any] = {"model_type": kind, "is_encoder_decoder": True, "d_model": width, "vocab_size": vocabulary}
    for side in ("encoder", "decoder"):
        made |= {f"{side}_layers": layers, f"{side}_attention_heads": heads, f"{side}_ffn_dim": inner}
    return made


MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "EleutherAI/pythia-160m-deduped": (neox(768, 12, 12), 162_322_944),
    "EleutherAI/pythia-410m-deduped": (neox(1024, 24, 16), 405_334_016),
    "EleutherAI/pythia-1b-deduped": (neox(2048, 16, 8), 1_011_781_632),
    "EleutherAI/pythia-1.4b-deduped": (neox(2048, 24, 16), 1_414_647_808),
    "EleutherAI/pythia-2.8b-deduped": (neox(2560, 32, 32), 2_775_208_960),
    "EleutherAI/pythia-6.9b-deduped": (neox(4096, 32, 32, 50432), 6_857_302_016),
    "openai-community/gpt2": ({"model_type": "gpt2"}, 124_439_808),
    "Qwen/Qwen2.5-0.5B": (
        {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
        | {"num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True},
        494_032_768,
    ),
    "google-t5/t5-small": (t5(512, 6, 8, 2048), 60_506_624),
    "google-t5/t5-base": (t5(768, 12, 12, 3072), 222_903_552),
    "facebook/bart-large": (bart("bart", 1024, 12, 16, 4096, 50265), 406_291_456),
    "Helsinki-NLP/opus-mt-de-en": (
        bart("marian", 512, 6, 8, 2048, 58101)
        | {"max_position_embeddings": 512, "activation_function": "swish", "scale_embedding": True}
        | {"pad_token_id": 58100, "eos_token_id": 0, "decoder_start_token_id": 58100},
        74_410_496,  # the learned ones; positions are computed
    ),
}
BRANCHES = {"EleutherAI/pythia-6.9b-deduped": "refs/pr/2"}

SETUPS = {
    # set-up: its model; train rows as its data set has them, of a number
    "tldr_pythia_410m": "EleutherAI/pythia-410m-deduped",
    "tldr_pythia_1b": "EleutherAI/pythia-1b-deduped",
    "tldr_pythia_2.8b": "EleutherAI/pythia-2.8b-deduped",
    "tldr_pythia_6.9b": "EleutherAI/pythia-6.9b-deduped",
    "hh_rlhf_gpt2": "openai-community/gpt2",
    "hh_rlhf_pythia_2.8b": "EleutherAI/pythia-2.8b-deduped",
    "wmt14_marian": "Helsinki-NLP/opus-mt-de-en",
    "multi30k_pythia_410m": "EleutherAI/pythia-410m-deduped",
    "multi30k_t5_small": "google-t5/t5-small",
    "squad_t5_base": "google-t5/t5-base",
    "squad_qwen2.5_0.5b": "Qwen/Qwen2.5-0.5B",
    "cnn_dailymail_t5_base": "google-t5/t5-base",
    "cnn_dailymail_bart_large": "facebook/bart-large",
    "cnn_dailymail_pythia_1.4b": "EleutherAI/pythia-1.4b-deduped",
}
SEQ2SEQ = ("t5", "bart", "marian")


def tldr(i: int) -> dict[str, Any]:
    prompt = f"SUBREDDIT: r/a{i}\n\nTITLE: On {i}\n\nPOST: It was number {i}. It left.\n\nTL;DR:"
    return {"prompt": prompt, "completion": f" number {i} left."}


def tldr_pair(i: int) -> dict[str, Any]:
    return {"prompt": tldr(i)["prompt"], "chosen": f"number {i} left.", "rejected": f"{i}?"}


def hh(i: int) -> dict[str, Any]:
    asked = f"\n\nHuman: What of {i}?\n\nAssistant: What of it?\n\nHuman: Is {i} even?"
    return {"chosen": f"{asked}\n\nAssistant: Yes.", "rejected": f"{asked}\n\nAssistant: Why?"}


def wmt(i: int) -> dict[str, Any]:
    return {"translation": {"de": f"Satz {i}.", "en": f"Sentence {i}."}}


def captions(i: int) -> dict[str, Any]:
    return {"en": f"Dog {i}.", "de": f"Hund {i}."}


def squad(i: int) -> dict[str, Any]:
    answers = {"text": [f"Ann {i}", "Ann"], "answer_start": [0, 0]}
    return {"id": f"q{i}", "title": "T", "context": f"Ann {i} won.", "question": f"Who won {i}?", "answers": answers}


def news(i: int) -> dict[str, Any]:
    return {"article": f"Event {i} took place. More follows.", "highlights": f"Event {i} .", "id": f"n{i}"}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def gzipped(rows: list[dict[str, Any]]) -> bytes:
    import gzip

    return gzip.compress(jsonl(rows))


def rows(make: Callable[[int], dict[str, Any]], start: int, count: int) -> list[dict[str, Any]]:
    return [make(i) for i in range(start, start + count)]


def card(config: str, folder: str) -> bytes:
    """What names a configuration's files in a repository of several."""
    files = "".join(f"  - {{split: {split}, path: {folder}/{split}-*}}\n" for split in ("train", "validation", "test"))
    return f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n".encode()


def splits(make: Callable[[int], dict[str, Any]], folder: str) -> dict[str, bytes]:
    counts = {"train": (0, 120), "validation": (200, 10), "test": (300, 10)}
    return {f"{folder}/{split}-0.parquet": parquet(rows(make, *count)) for split, count in counts.items()}


def data_sets() -> dict[str, dict[str, bytes]]:
    """Files as the repositories have them."""
    part = {"harmless-base": 0, "helpful-base": 1000}
    return {
        "trl-lib/tldr": splits(tldr, "data"),
        "trl-lib/tldr-preference": {"data/train-0.parquet": parquet(rows(tldr_pair, 500, 100))},
        "Anthropic/hh-rlhf": {
            f"{folder}/{split}.jsonl.gz": gzipped(rows(hh, start + (0 if split == "train" else 500), 100))
            for folder, start in part.items()
            for split in ("train", "test")
        },
        "wmt/wmt14": {"README.md": card("de-en", "de-en"), **splits(wmt, "de-en")},
        "bentrevett/multi30k": {
            f"{name}.jsonl": jsonl(rows(captions, start, 100))
            for name, start in (("train", 0), ("val", 200), ("test", 400))
        },
        "rajpurkar/squad": {
            f"plain_text/{split}-0.parquet": parquet(rows(squad, start, 120))
            for split, start in (("train", 0), ("validation", 500))
        },
        "abisee/cnn_dailymail": {"README.md": card("3.0.0", "3.0.0"), **splits(news, "3.0.0")},
    }


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from harness.models.nano import train_tokenizer

    made = _module("server").Hub()
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["the red fox runs home ."], 300).save_pretrained(folder)
    tokenizer = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, (config, _) in MODELS.items():
        files = {"config.json": json.dumps(config).encode(), **tokenizer}
        made.repository("models", name).commit(files, ref=BRANCHES.get(name, "main"))
    for name, files in data_sets().items():
        made.repository("datasets", name).commit(files)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    process = _module("client").Process(hub.url, tmp_path_factory.mktemp("hub-home"))
    yield process
    process.close()


def test_every_set_up_of_the_hub_is_here() -> None:
    import yaml

    from harness import config

    folder = Path(config.__file__).parent.parent / "conf" / "experiment"
    overlays = {path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    found = {name for name, made in overlays.items() if {"override /data": "hub"} in made.get("defaults", [])}
    found |= {name for name, made in overlays.items() if found & {str(base) for base in made.get("defaults", [])}}
    assert found == set(SETUPS)


@pytest.mark.parametrize("name", SETUPS)
def test_the_plan_states_parameters_memory_tokens_and_stages(name: str, client: Client) -> None:
    config, parameters = MODELS[SETUPS[name]]
    answer = client("plan", {"typed": [f"experiment={name}", "hardware.device=cpu", "hardware.precision=bf16"]})
    assert "error" not in answer, answer
    planned = {row["stage"]: row for row in answer["rows"]}
    assert {"data", "judge", "sft", "feedback", "reward_model", "ppo", "evaluation of candidate"} <= set(planned)
    ppo = planned["ppo"]
    assert ppo["parameters"] == planned["sft"]["parameters"] == parameters
    roles = ppo["roles"]
    # fp32 whatever the precision, one copy each; a classifier has no output layer of its own.
    untied = 0 if config["model_type"] in (*SEQ2SEQ, "gpt2", "qwen2") else config["hidden_size"] * config["vocab_size"]
    width = config.get("hidden_size") or config.get("d_model") or 768
    assert roles["policy"] == roles["reference"] == pytest.approx(4e-6 * parameters)
    # T5's and BART's own classifiers: a dense layer and a projection to one number, both with a bias; else a product.
    head = width * width + 2 * width + 1 if config["model_type"] in ("t5", "bart") else width
    assert roles["reward model"] == roles["value"] == pytest.approx(4e-6 * (parameters - untied + head))
    beside = cores() > 1  # policy and value network learn at the same time
    both = roles["policy"], roles["value"]
    assert roles["gradients"] == pytest.approx(sum(both) if beside else max(both))
    assert roles["optimiser"] == pytest.approx(2 * (roles["policy"] + roles["value"]))
    # A pass casts each matrix of the layers, two passes twice; embeddings alone are not cast.
    passes = 1 if config["model_type"] in (*SEQ2SEQ, "gpt2", "llama") else 2
    cast = sum(both) / 2 if beside else max(both) / 2
    assert 0.5 * cast < roles["bf16 copies"] <= passes * cast
    assert min(roles["activations"], roles["logits"], roles["cache"]) > 0
    assert max(roles.values()) < ppo["memory_mb"] <= sum(roles.values()) + 1
    assert all(planned[stage]["tokens"] for stage in ("sft", "judge", "feedback", "reward_model", "ppo"))


def test_the_data_of_every_set_up_map_to_rows(client: Client) -> None:
    expected = {
        "tldr_pythia_1b": "SUBREDDIT: r/a300\n\nTITLE: On 300\n\nPOST: It was number 300. It left.\n\nTL;DR:",
        "hh_rlhf_pythia_2.8b": "Human: What of 500?\nAssistant: What of it?\nHuman: Is 500 even?\nAssistant:",
        "wmt14_marian": "Satz 300.",
        "multi30k_pythia_410m": "Dog 400.\nGerman:",
        "multi30k_t5_small": "translate English to German: Dog 400.",
        "squad_t5_base": "question: Who won 500? context: Ann 500 won.",
        "squad_qwen2.5_0.5b": "Ann 500 won.\nQ: Who won 500?\nA:",
        "cnn_dailymail_t5_base": "summarize: Event 300 took place. More follows.",
        "cnn_dailymail_bart_large": "Event 300 took place. More follows.",
    }
    for name, prompt in expected.items():
        answer = client("rows", {"typed": [f"experiment={name}"]})
        assert "error" not in answer, (name, answer)
        assert answer["prompt"] == prompt
        empty = [split for split, count in answer["counts"].items() if not count]
        assert empty == (["preference"] if name == "tldr_pythia_1b" else []), name
        assert (answer["pair"] is not None) == name.startswith(("tldr", "hh")), name
    assert client("rows", {"typed": ["experiment=squad_t5_base"]})["references"] == ["Ann 500", "Ann"]
    pair = client("rows", {"typed": ["experiment=tldr_pythia_1b"]})["pair"]
    assert pair[0].endswith("It left.\n\nTL;DR:")
    assert pair[0].count("TL;DR:") == 1
    assert pair[1].endswith("left.")


def test_an_unknown_model_is_one_message(hub: Any, client: Client) -> None:
    answer = client("plan", {"typed": ["experiment=tldr_pythia_1b", "model.name=org/none"]})
    assert answer["error"].startswith(f"model.name=org/none is no repository on {hub.url} that can be read; check")
    assert "\n" not in answer["error"]


def test_without_a_hub_the_plan_is_one_message(tmp_path: Path) -> None:
    nobody = _module("client").Process("http://127.0.0.1:9", tmp_path)  # nothing listens there
    answer = nobody("plan", {"typed": ["experiment=tldr_pythia_1b"]})
    nobody.close()
    assert answer["error"].startswith("model.name=EleutherAI/pythia-1b-deduped cannot be read: http://127.0.0.1:9 does")
    assert answer["error"].endswith("or set HF_HUB_OFFLINE=1 to use what is in the cache")
    assert "\n" not in answer["error"]
