"""The code on a saved model's card: how it is loaded, whole or as an adapter, and asked as it was asked here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from harness.models.classifier import is_of_transformers
from harness.models.codec import APART, CHAT
from harness.models.kept import CLASSIFIER, SETTINGS

CODE = """{intro}:

```python
{load}
{ask}
```
"""
ADAPTER = "The folder holds an adapter, which names the model that it belongs on.\n\n"
POLICY = "A prompt is followed by a response that starts with a space and ends with the end-of-sequence token"
CHAT_POLICY = "A prompt is a conversation in the tokenizer's chat template{system}"
SEQ2SEQ = "A prompt goes into the encoder, and the decoder's response ends with the end-of-sequence token"
SCORER = "The score of a prompt and a response, read at the last token; higher is better"
PAIR = "The score of a prompt and a response, which the tokenizer encodes as a pair; higher is better"
PRODUCT = """transformers has no classifier of this family. The encoder reads a prompt, the decoder its start token
and a response; the score is a product with the last token's hidden state, and higher is better"""

PIPELINE = """from transformers import pipeline

{name} = pipeline("{task}", model=FOLDER_OR_REPOSITORY{more})"""
ADAPTED_PIPELINE = """from peft import AutoPeftModelFor{kind}
from transformers import AutoTokenizer{imports}, pipeline

tokenizer = AutoTokenizer.from_pretrained(FOLDER_OR_REPOSITORY)
model = AutoPeftModelFor{kind}.from_pretrained(FOLDER_OR_REPOSITORY{labels}).merge_and_unload()
{settings}
{name} = pipeline("{task}", model=model, tokenizer=tokenizer{more})"""
GENERATE = "generate({prompt}, do_sample=False, max_new_tokens={tokens}, return_full_text=False)"
GENERATES = "model.generation_config = GenerationConfig.from_pretrained(FOLDER_OR_REPOSITORY)"
PADS = "model.config.pad_token_id = tokenizer.pad_token_id"

LOAD_SEQ2SEQ = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER_OR_REPOSITORY)
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER_OR_REPOSITORY)"""
LOAD_ADAPTED_SEQ2SEQ = f"""from peft import AutoPeftModelForSeq2SeqLM
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained(FOLDER_OR_REPOSITORY)
model = AutoPeftModelForSeq2SeqLM.from_pretrained(FOLDER_OR_REPOSITORY).merge_and_unload()
{GENERATES}"""
ASK_SEQ2SEQ = """inputs = tokenizer(PROMPT, return_tensors="pt")
tokens = model.generate(**inputs, do_sample=False, max_new_tokens={tokens})
tokenizer.decode(tokens[0], skip_special_tokens=True)"""

LOAD_PRODUCT = """import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER)
score = load_file(f"{FOLDER}/model.safetensors")["score.weight"][0]"""
LOAD_ADAPTED_PRODUCT = """import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

settings = PeftConfig.from_pretrained(FOLDER)
settings.task_type = settings.modules_to_save = None  # its head is read by itself
base = AutoModelForSeq2SeqLM.from_pretrained(settings.base_model_name_or_path, revision=settings.revision)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = PeftModel.from_pretrained(base, FOLDER, config=settings).merge_and_unload().base_model
score = load_file(f"{FOLDER}/adapter_model.safetensors")["base_model.model.score.weight"][0]"""
ASK_PRODUCT = """inputs = tokenizer(PROMPT, return_tensors="pt")
response = tokenizer(text_target=RESPONSE, return_tensors="pt")["input_ids"]  # ends with the end-of-sequence token
start = response.new_tensor([{prefix}])
hidden = model(**inputs, decoder_input_ids=torch.cat([start, response], 1)).last_hidden_state[0, -1]
score @ hidden"""
SHIFT = """
The harness subtracts `reward_shift` = {shift:.6f} (in `{file}`) from it, so that references average 0.
"""


class Saved(NamedTuple):
    """What a model's folder says of how it is used.

    Args:
        settings: its configuration, or what stands in an adapter's place of one.
        file: where that is.
        words: the tokenizer's.
        adapter: whether it is an adapter alone.
        scorer: whether it is a classifier.
        pairs: whether transformers has its class, if it is an encoder–decoder classifier.
    """

    settings: dict[str, Any]
    file: str
    words: dict[str, Any]
    adapter: bool
    scorer: bool
    pairs: bool

    @classmethod
    def read(cls, folder: Path, *, adapter: bool, scorer: bool) -> Saved:
        """Read the folder of a policy or (``scorer``) a reward model or judge."""
        file = "config.json" if not adapter else CLASSIFIER if scorer else SETTINGS
        settings, words = (_json(folder / name) for name in (file, "tokenizer_config.json"))
        if not scorer or not words.get(APART, False):
            pairs = False
        elif adapter:  # the class is not written; its head has a name of its own
            pairs = "classification_head" in _json(folder / SETTINGS)["modules_to_save"]
        else:
            pairs = is_of_transformers(settings["architectures"][0])
        return cls(settings, file, words, adapter, scorer, pairs)

    @property
    def apart(self) -> bool:
        """Whether prompt and response go into an encoder and a decoder."""
        return bool(self.words.get(APART, False))


def usage(saved: Saved, max_response_tokens: int) -> str:
    """How the model is used, in Markdown, with code that runs as it stands once the names in capitals are given."""
    found = _scorer(saved) if saved.scorer else _policy(saved, max_response_tokens)
    return (ADAPTER if saved.adapter else "") + found


def _policy(saved: Saved, max_response_tokens: int) -> str:
    prefix = saved.settings.get("decoder_prefix") or []
    tokens = str(max_response_tokens + max(len(prefix) - 1, 0))
    if saved.apart:
        load = LOAD_ADAPTED_SEQ2SEQ if saved.adapter else LOAD_SEQ2SEQ
        return _code(SEQ2SEQ, load, ASK_SEQ2SEQ.replace("{tokens}", tokens))
    chat = saved.words.get(CHAT)
    system = f" that begins with the system message {chat['system']!r}" if chat and chat["system"] else ""
    intro = POLICY if chat is None else CHAT_POLICY.replace("{system}", system)
    ask = GENERATE.format(prompt="PROMPT" if chat is None else "MESSAGES", tokens=tokens)
    return _code(intro, _pipeline(saved, "generate", "text-generation"), ask)


def _scorer(saved: Saved) -> str:
    settings = saved.settings
    load = _pipeline(saved, "score", "text-classification", more=', function_to_apply="none"')
    if saved.apart and not saved.pairs:
        start = settings.get("decoder_prefix") or [settings["decoder_start_token_id"]]
        load = LOAD_ADAPTED_PRODUCT if saved.adapter else LOAD_PRODUCT
        text = _code(PRODUCT, load, ASK_PRODUCT.replace("{prefix}", str(start)))
    elif saved.apart:
        text = _code(PAIR, load, 'score({"text": PROMPT, "text_pair": RESPONSE})')
    else:
        eos = " + score.tokenizer.eos_token" if settings.get("reward_reads_eos", True) else ""
        text = _code(SCORER, load, f'score(PROMPT + " " + RESPONSE{eos})')
    shift = settings.get("reward_shift")
    return text if shift is None else text + SHIFT.format(shift=shift, file=saved.file)


def _pipeline(saved: Saved, name: str, task: str, *, more: str = "") -> str:
    """The lines that make a pipeline."""
    if not saved.adapter:
        return PIPELINE.format(name=name, task=task, more=more)
    scorer = saved.scorer
    return ADAPTED_PIPELINE.format(
        kind="SequenceClassification" if scorer else "CausalLM",
        imports="" if scorer else ", GenerationConfig",
        labels=", num_labels=1" if scorer else "",
        settings=PADS if scorer else GENERATES,
        name=name,
        task=task,
        more=more,
    )


def _code(intro: str, load: str, ask: str) -> str:
    return CODE.replace("{intro}", intro).replace("{load}", load).replace("{ask}", ask)


def _json(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return saved
