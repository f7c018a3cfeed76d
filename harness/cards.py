"""Which saved models get a card, and what of the records and manifests stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.context import model_directory
from harness.graph import Graph
from harness.models.card import CARD, UNKNOWN_LICENSE, CardFacts, Measured, stated_license, write_card
from harness.models.classifier import is_of_transformers
from harness.models.codec import APART, CHAT
from harness.models.kept import CLASSIFIER, SETTINGS, adapter_folder
from harness.needs import loaded_paths
from harness.provenance import git_commit, versions
from harness.records import Record
from harness.request import Request
from harness.stages import Finished, StageRunner

TASKS = {"summarize": "summarization", "translate": "translation", "qa": "question-answering"}
"""Our tasks by the hub's names; the others are ``text-generation``."""
ROLES = {
    "sft": "a policy after supervised fine-tuning on demonstrations",
    "sft-more": "a control: supervised fine-tuning continued for as many responses as the algorithm trained on",
    "algorithm": "the final policy of a run with the algorithm `{algorithm}`",
    "reward_model": "a reward model: Bradley–Terry on preference pairs",
    "judge": "a judge: a reward model that scores policies and is never optimised against",
}
POLICY_USAGE = """A prompt is followed by a response that starts with a space and ends with the end-of-sequence token:

```python
from transformers import pipeline

generate = pipeline("text-generation", model=FOLDER_OR_REPOSITORY)
generate(PROMPT, do_sample=False, max_new_tokens={tokens}, return_full_text=False)
```"""
CHAT_USAGE = """A prompt is a conversation in the tokenizer's chat template{system}:

```python
from transformers import pipeline

generate = pipeline("text-generation", model=FOLDER_OR_REPOSITORY)
generate(MESSAGES, do_sample=False, max_new_tokens={tokens}, return_full_text=False)
```"""
SEQ2SEQ_USAGE = """A prompt goes into the encoder, and the decoder's response ends with the end-of-sequence token:

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER_OR_REPOSITORY)
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER_OR_REPOSITORY)
tokens = model.generate(**tokenizer(PROMPT, return_tensors="pt"), do_sample=False, max_new_tokens={tokens})
tokenizer.decode(tokens[0], skip_special_tokens=True)
```"""
SCORER_USAGE = """The score of a prompt and a response, read at the last token; higher is better:

```python
from transformers import pipeline

score = pipeline("text-classification", model=FOLDER_OR_REPOSITORY, function_to_apply="none")
score(PROMPT + " " + RESPONSE{eos})
```
"""
ADAPTER_USAGE = """
The folder holds an adapter, which names the model that it belongs on. peft loads both:

```python
from peft import {peft_class}
from transformers import AutoTokenizer, pipeline

tokenizer = AutoTokenizer.from_pretrained(FOLDER_OR_REPOSITORY)
model = {peft_class}.from_pretrained(FOLDER_OR_REPOSITORY{labels}).merge_and_unload()
model.config.pad_token_id = tokenizer.pad_token_id
```

In the lines above, give both: `pipeline(…, model=model, tokenizer=tokenizer)`.
"""
PAIR_USAGE = """The score of a prompt and a response, which the tokenizer encodes as a pair; higher is better:

```python
from transformers import pipeline

score = pipeline("text-classification", model=FOLDER_OR_REPOSITORY, function_to_apply="none")
score({"text": PROMPT, "text_pair": RESPONSE})
```
"""
PRODUCT_USAGE = """transformers has no classifier of this family. The encoder reads a prompt, the decoder its start
token and a response; the score is a product with the last token's hidden state, and higher is better:

```python
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER)
inputs = tokenizer(PROMPT, return_tensors="pt")
response = tokenizer(text_target=RESPONSE, return_tensors="pt")["input_ids"]  # ends with the end-of-sequence token
start = response.new_tensor([{prefix}])
hidden = model(**inputs, decoder_input_ids=torch.cat([start, response], 1)).last_hidden_state[0, -1]
load_file(f"{FOLDER}/model.safetensors")["score.weight"][0] @ hidden
```
"""
SHIFT_USAGE = """
The harness subtracts `reward_shift` = {shift} (in `{file}`) from it, so that references average 0.
"""


def write_cards(request: Request, graph: Graph, runner: StageRunner, row: str | None, made: Record | None) -> None:
    """Cards for the models behind one row of the table; those of a candidate hold the reward model and the judge.

    Args:
        request: with the command.
        graph: the stages.
        runner: finds what they left.
        row: the fixed row, or None for the candidate.
        made: its record; None where the job failed: whatever is finished and has no card yet gets one without scores.
    """
    if made is None:
        names = [name for name in ROLES if not _has_card(graph, runner, name)]
    else:
        names = ["algorithm", "reward_model", "judge"] if row is None else [row]
    for name in names:
        stage = graph.parts.get(name)
        finished = None if stage is None else runner.cached(stage)
        if finished is not None and model_directory(finished.directory).is_dir():
            write_card(model_directory(finished.directory), card_facts(request, graph, runner, name, finished, made))


def card_facts(
    request: Request, graph: Graph, runner: StageRunner, name: str, finished: Finished, made: Record | None
) -> CardFacts:
    """What the card of one part's model says."""
    config = request.config
    data = runner.cached(graph.parts["data"])
    scorer = name in ("reward_model", "judge")
    measured = _examined(finished) if scorer else [] if made is None else _scored(made)
    return CardFacts(
        name=f"{config.task.name}-{name.replace('_', '-')}-{finished.manifest['fingerprint']}",
        role=_role(config, name),
        pipeline="text-classification" if scorer else _pipeline(config, finished),
        task="text-classification" if scorer else TASKS.get(config.task.name, "text-generation"),
        data=config.data.name or Path(str(config.data.path or config.data.source)).name,
        data_hash="" if data is None else str(data.summary["report"]["content_hash"])[:16],
        template=config.task.template,
        command=request.command,
        license=license_of(config, name),
        base_model=_base_model(config, name),
        measured=measured,
        usage=_usage(config, finished, scorer=scorer),
        library="peft" if _is_adapter(finished) else "transformers",
        facts={
            "task": config.task.name,
            "seed": finished.manifest["seed"],
            "stage": f"{finished.manifest['stage']}-{finished.manifest['fingerprint']}",
            "record": None if made is None else made["run_id"],
            "status": None if made is None else made["status"],
            "commit": git_commit(),
            "versions": ", ".join(f"{package} {version}" for package, version in versions().items()),
        },
    )


def license_of(config: Config, name: str) -> str:
    """``hub.license``, else what the card of the model that it comes from says, else ``unknown``."""
    if config.hub.license:
        return config.hub.license
    sources = [loaded_paths(config).get("algorithm.path" if name == "algorithm" else f"{name}.path")]
    model = config.judge.model if name == "judge" else config.model
    sources += [loaded_paths(config).get("sft.path") if name != "judge" else None]
    sources += [model.name if model.kind == "hf" else None]
    stated = (stated_license(Path(source).expanduser()) for source in sources if source)
    return next((found for found in stated if found), UNKNOWN_LICENSE)


def _has_card(graph: Graph, runner: StageRunner, name: str) -> bool:
    stage = graph.parts.get(name)
    return stage is not None and (model_directory(runner.directory(stage)) / CARD).is_file()


def _role(config: Config, name: str) -> str:
    loaded = loaded_paths(config)
    if name == "algorithm" and "algorithm.path" in loaded:
        return "a policy that another trainer finished, as it was scored"
    if f"{name}.path" in loaded:
        return f"{ROLES[name]}, made elsewhere and taken as it is"
    return ROLES[name].format(algorithm=config.algorithm.name)


def _base_model(config: Config, name: str) -> str | None:
    """The hub id of what it was trained from; a folder on one machine means nothing on another."""
    model = config.judge.model if name == "judge" else config.model
    known = f"{name}.path" not in loaded_paths(config) and (name == "judge" or config.sft.source == "train")
    local = model.name is None or Path(model.name).expanduser().exists()
    return model.name if known and model.kind == "hf" and not local else None


def _saved(finished: Finished, name: str) -> dict[str, Any]:
    path = model_directory(finished.directory) / name
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return saved


def _pipeline(config: Config, finished: Finished) -> str:
    """The hub has tasks of their own for encoder–decoder models that translate or summarise."""
    own = {name: tag for name, tag in TASKS.items() if name in ("summarize", "translate")}
    apart = _saved(finished, "tokenizer_config.json").get(APART, False)
    return own.get(config.task.name, "text-generation") if apart else "text-generation"


def _usage(config: Config, finished: Finished, *, scorer: bool) -> str:
    adapter, words = _is_adapter(finished), _saved(finished, "tokenizer_config.json")
    file = CLASSIFIER if adapter and scorer else SETTINGS if adapter else "config.json"
    saved, apart = _saved(finished, file), words.get(APART, False)
    prefix = saved.get("decoder_prefix") or []
    kind = "SequenceClassification" if scorer else "Seq2SeqLM" if apart else "CausalLM"
    usage = ADAPTER_USAGE.replace("{labels}", ", num_labels=1" if scorer else "") if adapter else ""
    usage = usage.replace("{peft_class}", f"AutoPeftModelFor{kind}")
    if not scorer:
        tokens = config.task.max_response_tokens + max(len(prefix) - 1, 0)
        chat = words.get(CHAT)
        text = SEQ2SEQ_USAGE if apart else POLICY_USAGE if chat is None else CHAT_USAGE
        system = f" that begins with the system message {chat['system']!r}" if chat and chat["system"] else ""
        return text.replace("{tokens}", str(tokens)).replace("{system}", system) + usage
    reads_eos, shift = saved.get("reward_reads_eos", True), saved.get("reward_shift")
    text = SCORER_USAGE.replace("{eos}", " + score.tokenizer.eos_token" if reads_eos else "")
    if apart:
        start = str(prefix or [saved["decoder_start_token_id"]])
        text = PAIR_USAGE if _reads_pairs(finished) else PRODUCT_USAGE.replace("[{prefix}]", f"[{start}]")
    shifted = SHIFT_USAGE.replace("{shift}", f"{shift:.6f}" if shift is not None else "").replace("{file}", file)
    return text + usage + (shifted if shift is not None else "")


def _reads_pairs(finished: Finished) -> bool:
    """Whether an encoder–decoder scorer is a classifier of transformers: its class or, in an adapter, its head says."""
    if _is_adapter(finished):
        return "classification_head" in _saved(finished, SETTINGS)["modules_to_save"]
    return is_of_transformers(_saved(finished, "config.json")["architectures"][0])


def _is_adapter(finished: Finished) -> bool:
    return adapter_folder(finished.directory) == model_directory(finished.directory)


def _scored(made: Record) -> list[Measured]:
    """A policy's scores on the test prompts, from its row's record."""
    found = [
        Measured(name, name, metric["after"], metric["after_low"], metric["after_high"], metric["signature"])
        for name, metric in made["metrics"].items()
        if metric["after"] is not None
    ]
    for key, name in (("reference", "win rate against references"), ("judge", "win rate against the SFT policy")):
        rate: Any = made["win_rates"].get(key)
        if rate is not None:
            found.append(Measured("win_rate", name, rate["value"], rate["low"], rate["high"], "judge"))
    return found


def _examined(finished: Finished) -> list[Measured]:
    """A reward model's accuracy on held-out pairs, from its report card."""
    card = finished.summary.get("report_card")
    if not card:
        return []
    accuracy = card["accuracy"]
    name = f"accuracy on {card['pairs']} held-out pairs"
    return [
        Measured(
            "accuracy",
            name,
            accuracy["estimate"],
            accuracy["low"],
            accuracy["high"],
            "chosen above rejected",
            "validation",
        )
    ]
