"""Adapters of low rank on a frozen base: put on, copied so that copies share the base, taken off, and merged.

Each role's model is a whole transformers model with one adapter of its own. What is frozen is the same object in all of
them, so four roles hold the base's weights once, and none has to be switched on before it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.config import LoraConfig
from harness.errors import UserError
from harness.models.classifier import ensure_classifier
from harness.models.heads import HEADS, new_head, score_head
from harness.models.loading import LanguageModel

if TYPE_CHECKING:
    import torch

NAME = "default"
"""What peft calls an adapter that was given no name; only one is on a model at a time."""
PEFT_PREFIX = "base_model.model."
"""What peft writes before the names of weights."""


class Base(NamedTuple):
    """What an adapter is put on: a folder (absolute), or a hub id with its commit."""

    name: str
    revision: str | None = None


def is_adapted(model: Any) -> bool:
    return bool(getattr(model, "peft_config", None))


def base_of(model: Any) -> Base:
    """What an adapted model's base was loaded from."""
    settings = model.peft_config[NAME]
    return Base(str(settings.base_model_name_or_path), settings.revision)


def add_adapter(model: Any, lora: LoraConfig, base: Base, *, seed: int, key: str = "model") -> None:
    """Freeze a model and put a new adapter on the linear layers of its trunk, in place; nothing that it says changes.

    The first matrix is random, the second one zero. A classifier's head stays trainable.

    Args:
        model: a transformers model.
        lora: with ``rank`` set.
        base: where the weights came from, for whoever loads the adapter.
        seed: of the first matrices.
        key: the model's group, to name in an error.
    Source: Hu et al. 2021 (arXiv 2106.09685).
    Raises:
        UserError: naming ``lora.target_modules``: a name that no linear layer has.
    """
    import torch
    from peft import LoraConfig as Settings

    assert lora.rank is not None
    targets = target_names(model, lora.target_modules, key=key)
    settings = Settings(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=_is_transposed(model, targets[0]),
        base_model_name_or_path=base.name,
        revision=base.revision,
        task_type=task_type(model),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject(model, settings)


def task_type(model: Any) -> str:
    """What peft calls a language model of this kind."""
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def inject(model: Any, settings: Any) -> None:
    """Put the adapter on that peft's ``settings`` describe; its weights are new."""
    from peft import inject_adapter_in_model

    heads = [name for name, module in model.named_modules() if _is_linear(module) and name.split(".")[0] in HEADS]
    if any("." in name for name in heads):  # its layers may be called as the trunk's are
        settings.exclude_modules = heads
    inject_adapter_in_model(settings, model.requires_grad_(False), adapter_name=NAME)
    for name in HEADS:
        if hasattr(model, name):
            getattr(model, name).requires_grad_(True)
    model.eval()  # new layers begin in training mode, and with dropout


def target_names(model: Any, wanted: list[str] | None, *, key: str = "model") -> list[str]:
    """The last parts of the names of the linear layers in a model's trunk; those that are ``wanted``, if any are.

    Raises:
        UserError: naming ``lora.target_modules``: one is not among them.
    """
    return chosen_names({name.rpartition(".")[2] for name, _ in _linear_layers(model)}, wanted, key=key)


def chosen_names(names: Iterable[str], wanted: list[str] | None, *, key: str = "model") -> list[str]:
    """Of the names of a model's linear layers those that are ``wanted``, in order; None: all.

    Raises:
        UserError: naming ``lora.target_modules``: one is not among them.
    """
    known = sorted(set(names))
    for name in wanted or ():
        if name not in known:
            rule = "is no linear layer of this model"
            raise UserError(f"{key}.lora.target_modules", name, rule, f"choose among {', '.join(known)}")
    return sorted(set(wanted)) if wanted else known


def adapted_layers(model: Any, wanted: list[str] | None, *, key: str = "model") -> list[Any]:
    """The linear layers that an adapter is put on: see ``target_names``."""
    targets = target_names(model, wanted, key=key)
    return [layer for name, layer in _linear_layers(model) if name.rpartition(".")[2] in targets]


def _linear_layers(model: Any) -> list[tuple[str, Any]]:
    """The linear layers of a model's trunk, by their names."""
    output = model.get_output_embeddings()
    layers = [(name, m) for name, m in model.named_modules() if _is_linear(m) and m is not output]
    return [(name, layer) for name, layer in layers if name.split(".")[0] not in HEADS]


def _is_linear(module: Any) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _is_transposed(model: Any, target: str) -> bool:
    """GPT-2's linear layers hold their matrix the other way round."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(m, Conv1D) for name, m in model.named_modules() if name.rpartition(".")[2] == target)


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """Name -> parameter of what is trained: all of a model, or an adapter with its head."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted_count(model: Any) -> tuple[int, int]:
    """How many parameters a model has, and how many of them its adapter (and a classifier's head); 0 without one."""
    adapter = sum(parameter.numel() for parameter in trainable(model).values()) if is_adapted(model) else 0
    return sum(parameter.numel() for parameter in model.parameters()), adapter


def twin(model: Any) -> Any:
    """A copy that shares what is frozen: another role on the same base, or, of a model without adapter, a full copy."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        memo |= {id(parameter): parameter for parameter in own if not parameter.requires_grad}
        if own and not any(True for _ in module.children()) and not any(p.requires_grad for p in own):
            memo[id(module)] = module  # with what a quantised layer keeps besides its parameters
    return copy.deepcopy(model, memo)


def bare(model: Any) -> Any:
    """The base alone: a twin without adapter, which shares all weights."""
    return _replaced(model, lambda layer: layer.base_layer)


def merged(model: Any) -> Any:
    """A twin with its adapter added to the base's matrices, which are new ones; all else is shared."""
    return _replaced(model, _with_delta)


def _replaced(model: Any, replacement: Callable[[Any], Any]) -> Any:
    made = twin(model)
    for name, layer in list(_lora_layers(made)):
        parent, _, child = name.rpartition(".")
        setattr(made.get_submodule(parent), child, replacement(layer))
    if is_adapted(made):
        del made.peft_config
    return made


def _with_delta(layer: Any) -> Any:
    import torch

    made = copy.copy(layer.base_layer)
    made._parameters = dict(made._parameters)  # else the copy's new weight would be the base's too
    with torch.no_grad():
        weight = layer.base_layer.weight + layer.get_delta_weight(NAME)
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    return made


def _lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    if not is_adapted(model):
        return
    from peft.tuners.lora import LoraLayer

    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def classifier(policy: LanguageModel) -> Any:
    """A sequence classifier with one label, on a policy's base, which it shares; its head holds no numbers yet."""
    import torch
    from transformers import AutoModelForSequenceClassification

    source = bare(policy.model)
    config = copy.deepcopy(source.config)
    config.num_labels = 1
    ensure_classifier(config)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    for name, child in source.base_model.named_children():
        if hasattr(model.base_model, name):
            setattr(model.base_model, name, child)
    score_head(model).to_empty(device=source.device)
    return model.requires_grad_(False).eval()


def scorer_on(policy: LanguageModel, *, head_seed: int) -> Any:
    """A classifier to be trained, on a policy's base: with a copy of the policy's adapter and a new head."""
    import torch

    model = classifier(policy)
    inject(model, copy.deepcopy(policy.model.peft_config[NAME]))
    theirs = dict(_trunk_adapter(policy.model))
    with torch.no_grad():
        for name, parameter in _trunk_adapter(model):
            parameter.copy_(theirs[name])
    new_head(model, head_seed)
    return model


def _trunk_adapter(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The adapter's parameters by their name within the trunk, the same for a policy and a classifier."""
    yield from ((n, p) for n, p in model.base_model.named_parameters() if p.requires_grad)


@contextmanager
def dropping(model: Any, seed: int) -> Iterator[None]:
    """Dropout of the adapter's inputs, where it has any, from a stream of its own: on in here, and nowhere else."""
    import torch

    layers = [layer.lora_dropout[NAME] for _, layer in _lora_layers(model)]
    rates = [layer for layer in layers if getattr(layer, "p", 0) > 0]
    if not rates:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in rates:
            layer.train()
        try:
            yield
        finally:
            for layer in rates:
                layer.eval()
