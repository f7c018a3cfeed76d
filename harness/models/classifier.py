"""Sequence classifiers over encoder–decoder models: transformers' own, and one of ours for families that have none.

Ours is the model without its output layer, and one layer ``score`` without bias. On disk: the weights of transformers'
model class for the family as usual, and ``score.weight`` (1, H). The score of a prompt and a response is that layer on
the decoder's hidden state at the response's last token, where the encoder reads the prompt and the decoder its start
token and the response.
"""

from __future__ import annotations

from typing import Any


def ensure_classifier(config: Any) -> None:
    """Let ``AutoModelForSequenceClassification`` know a class for this configuration; one that it has stays."""
    from transformers import AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
    )

    kind = type(config)
    if not config.is_encoder_decoder or kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and kind in MODEL_MAPPING:
        made = _classifier(kind, MODEL_MAPPING[kind], MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[kind])
        AutoModelForSequenceClassification.register(kind, made, exist_ok=True)  # else a class of transformers keeps out


def is_of_transformers(architecture: str) -> bool:
    """Whether a class name is that of a sequence classifier which transformers has itself."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    return architecture in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values()


def classifier_name(config: Any) -> str | None:
    """What the class for this configuration is called; None where there is none and none can be made."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    ensure_classifier(config)
    kind = type(config)
    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None
    return str(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[kind].__name__)


def _classifier(config_class: type[Any], trunk_class: type[Any], language_model_class: type[Any]) -> type[Any]:
    """A class that holds the family's trunk where its other classes do, so that their checkpoints load into it."""
    from torch import nn

    base: Any = trunk_class.__bases__[0]

    def __init__(self: Any, config: Any) -> None:
        base.__init__(self, config)
        setattr(self, base.base_model_prefix, trunk_class(config))
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    name = f"{config_class.__name__.removesuffix('Config')}ForSequenceClassification"
    ignored = {
        "_keys_to_ignore_on_load_missing": language_model_class._keys_to_ignore_on_load_missing,
        "_keys_to_ignore_on_load_unexpected": ["lm_head.*", "final_logits_bias"],
        "_keys_to_ignore_on_save": language_model_class._keys_to_ignore_on_save,
        "_tied_weights_keys": None,
    }
    return type(name, (base,), {"__init__": __init__, "__module__": __name__, "config_class": config_class, **ignored})
