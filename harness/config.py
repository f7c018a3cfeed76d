"""The configuration's schema: one dataclass per Hydra group, and the ranges that types cannot express.

Dataclasses are not frozen: OmegaConf refuses overrides of frozen ones. Defaults that differ between set-ups stand in
``conf/``; here stand the literature's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf


@dataclass
class TaskConfig:
    """What is asked. ``world`` names the controlled world that ``data=controlled`` draws from."""

    _target_: str = MISSING
    name: str = MISSING
    template: str = MISSING
    metrics: list[str] = MISSING
    main_metric: str = MISSING
    max_prompt_tokens: int = 128
    max_response_tokens: int = 32
    world: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Where examples come from. ``seed`` fixes world, splits and test prompts; the root ``seed`` varies training."""

    source: str = MISSING
    name: str | None = None
    seed: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=lambda: {"sft": 0.5, "preference": 0.2, "judge": 0.1, "rl": 0.2})
    references: int = 3
    path: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    pairs_path: str | None = None
    pairs_columns: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    max_bad_rows: int = 0
    max_turns: int = 5
    workers: int = 1


@dataclass
class ControlledDataConfig(DataConfig):
    """A controlled world. ``mixture`` gives shares to styles of its demonstrations, in place of the world's own."""

    mixture: dict[str, float] = field(default_factory=dict)


@dataclass
class CleaningConfig:
    """What is done to rows before they are shared out. All that it changes or drops is counted in the record."""

    normalise: bool = True
    drop_empty: bool = True
    max_prompt_chars: int | None = None
    max_response_chars: int | None = None
    deduplicate: str = "rows"


@dataclass
class LocalDataConfig(DataConfig):
    """Rows of files on disk."""

    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    max_rows: dict[str, int] = field(default_factory=dict)
    transcript_speakers: list[str] = field(default_factory=lambda: ["Human", "Assistant"])


@dataclass
class HubDataConfig(LocalDataConfig):
    """Rows of a data set on the Hugging Face hub; ``path`` and ``pairs_path`` then name repositories."""

    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    streaming: bool = False
    pairs_config: str | None = None
    pairs_revision: str | None = None
    pairs_split: str = "train"


@dataclass
class LoraConfig:
    """Adapters of low rank on a frozen base (arXiv 2106.09685), in place of training all weights; see docs/lora.md.

    Off where ``rank`` is None. ``target_modules``: by the last part of their names; None: all linear layers.
    """

    rank: int | None = None
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] | None = None
    merge: bool = True


@dataclass
class ModelConfig:
    """The base model: ``nano`` is made from a transformers config, ``hf`` is loaded from a folder or the hub.

    ``chat`` puts prompts into the tokenizer's chat template, after ``system`` where that is given.
    """

    kind: str = MISSING
    name: str | None = None
    revision: str | None = None
    architecture: str = "gpt2"
    layers: int = 2
    width: int = 128
    heads: int = 2
    vocab_size: int = 2048
    context: int = 256
    chat: bool = False
    system: str | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: str | None = None


@dataclass
class APIConfig:
    """How an endpoint that speaks OpenAI's protocol is asked. The key comes from the environment, never from here.

    Prices are per million tokens, in any currency. ``options`` are further fields of the request; null removes one.
    """

    protocol: str = "chat"
    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    key_variable: str = "HARNESS_API_KEY"
    concurrency: int = 8
    requests_per_minute: int | None = None
    timeout_seconds: float = 60.0
    max_attempts: int = 6
    backoff_seconds: float = 1.0
    max_wait_seconds: float = 120.0
    prompt_price: float | None = None
    response_price: float | None = None


@dataclass
class APIModelConfig(ModelConfig):
    """A model behind an endpoint: it answers the test prompts, and nothing is trained."""

    base_url: str | None = None
    api: APIConfig = field(default_factory=APIConfig)


@dataclass
class OptimizerConfig:
    """AdamW, or Muon for the matrices inside the layers; ``schedule`` is linear or cosine to 0, or constant."""

    kind: str = "adamw"
    lr: float = MISSING
    weight_decay: float = 0.0
    eps: float = 1e-5
    schedule: str = "linear"
    warmup: float = 0.05
    max_grad_norm: float = 1.0


@dataclass
class SFTConfig:
    """Imitation of the demonstrations; ``source=load`` takes the policy at ``path`` as it is.

    ``packing`` lays the demonstrations of a forward pass end to end, in rows of at most ``packed_tokens``.
    """

    source: str = MISSING
    path: str | None = None
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 16
    micro_batch_size: int | None = None
    train_on_prompt: bool = False
    packing: bool = False
    packed_tokens: int | None = None
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="muon", lr=2e-3))


@dataclass
class FeedbackConfig:
    """Who prefers what. ``temperature`` scales the annotator's utility; ``noise`` flips labels at random."""

    kind: str = MISSING
    samples_per_prompt: int = 6
    sampling_temperature: float = 0.7
    max_pairs: int = 8000
    heldout_pairs: int = 4500
    min_pairs: int = 50
    max_attempts: int = 12
    temperature: float = 1.0
    indifference: float = 0.3
    noise: float = 0.0
    length_bias: float = 0.0
    metric: str | None = None


@dataclass
class RewardModelConfig:
    """Bradley–Terry training from the SFT policy."""

    source: str = "train"
    path: str | None = None
    epochs: float = 1.0
    batch_size: int = 16
    micro_batch_size: int | None = None
    margin: float = 0.0
    centering: float = 0.0
    scale_scores: bool = False
    balance_length: bool = False
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="muon", lr=1e-3))


@dataclass
class AnnotatorConfig:
    """A simulated annotator: see ``harness.feedback.annotators.Annotator``. ``metric``: null takes the task's."""

    temperature: float = 1.0
    indifference: float = 0.3
    noise: float = 0.0
    length_bias: float = 0.0
    metric: str | None = None


@dataclass
class JudgeConfig:
    """The reward model that scores the table. All of it, and the data, decide its fingerprint; no candidate does."""

    source: str = "train"
    path: str | None = None
    seed: int = 1000
    model: ModelConfig = MISSING
    responses: str = "mixture"
    samples_per_prompt: int = 4
    max_pairs: int = 8000
    heldout_pairs: int = 4500
    min_pairs: int = 100
    sft_epochs: float = 0.5
    epochs: float = 1.0
    batch_size: int = 16
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="muon", lr=1e-3))
    backbone_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="muon", lr=2e-3))


@dataclass
class LimitsConfig:
    """Where a run counts as collapsed.

    KL in nats per sequence, entropy in nats per token, length in tokens or as a share of ``task.max_response_tokens``,
    score on the reward model's scale.
    """

    max_kl: float | None = 50.0
    min_entropy: float | None = 0.0001
    min_length: float | None = 1.2
    max_length_share: float | None = 0.98
    min_score: float | None = None


@dataclass
class AlgorithmConfig:
    """What every algorithm states: the class that runs it, its name in the table, its budget, whose prompts it uses."""

    _target_: str = MISSING
    name: str = MISSING
    episodes: int = 0
    prompt_splits: list[str] = field(default_factory=lambda: ["rl"])


@dataclass
class FinishedPolicyConfig(AlgorithmConfig):
    """A policy that another trainer finished, in place of training: it is scored against the SFT policy."""

    path: str | None = None


@dataclass
class ValueConfig:
    """The value function: a network of its own, from the reward model (``separate``), or a head on the policy."""

    kind: str = "separate"
    coef: float = 0.1
    clip_range: float = 0.2
    lr: float | None = None


@dataclass
class AdvantageConfig:
    """Generalised advantage estimation (arXiv 1506.02438), and whether rewards are whitened before it."""

    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False


@dataclass
class ChecksConfig:
    """What is watched: gates to skip before training, held-out probes during it, and the limits of a collapse."""

    skip_gates: list[str] = field(default_factory=list)
    probes: int = 8
    probe_prompts: int = 200
    limits: LimitsConfig = field(default_factory=LimitsConfig)


@dataclass
class KLControlConfig:
    """Adaptive control of β (Ziegler et al. 2019, section 2.2); off where ``target`` is None.

    ``target`` is in nats, summed over the sequence. ``estimator``: of the KL in the reward; k3 there is biased for the
    reverse-KL objective.
    """

    target: float | None = None
    horizon: int = 10000
    estimator: str = "k1"


@dataclass
class PPOConfig(AlgorithmConfig):
    """PPO as the literature runs it on language models (arXiv 2403.17031). β is ``kl_coef``."""

    episodes: int = 2048
    batch_size: int = 128
    minibatch_size: int = 32
    micro_batch_size: int | None = None
    epochs: int = 4
    kl_coef: float = 0.05
    kl: KLControlConfig = field(default_factory=KLControlConfig)
    clip_range: float = 0.2
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    entropy_coef: float = 0.0
    missing_eos_penalty: float | None = 1.0
    value: ValueConfig = field(default_factory=ValueConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-4, warmup=0.0))


@dataclass
class RolloutConfig:
    """How responses are sampled in training; β and the ratio are measured at the same temperature.

    ``engine``: our own loop (``native``), the same with its steps compiled (``compiled``; CUDA graphs on a GPU), or
    ``vllm``, which takes ``engine_memory`` of a GPU's memory.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    batch_size: int = 256
    engine: str = "native"
    engine_memory: float = 0.4


@dataclass
class EvaluationConfig:
    """How policies are scored: greedily by default, one length limit for all."""

    temperature: float = 0.0
    batch_size: int = 256
    engine: str = "native"
    resamples: int = 1000
    seed: int = 0
    best_of_n: int = 4
    fixed_rows: list[str] = field(
        default_factory=lambda: [
            "references",
            "base",
            "sft",
            "sft-more",
            "best-of-n",
            "copy-input",
            "empty",
            "longest",
        ]
    )
    extra_metrics: list[str] = field(default_factory=list)
    curve_prompts: int = 200
    curve_best_of: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    samples_in_record: int = 20
    leaderboard: str = "harness.leaderboard.build.build"


@dataclass
class HardwareConfig:
    """Where it runs. ``precision=auto``: bf16 autocast on CUDA and on a CPU with instructions for it (AVX512-BF16,
    AMX), else fp32; weights are fp32 in both. bf16 rounds more: gates allow for that, and refuse what goes beyond.

    ``workers``: how many stages may run at a time, each in a process of its own; null: two on a CPU with two cores or
    more whose jobs run one after the other, else one. ``threads``: of each; null: half of the cores on a CPU, so that
    two workers fill it, and every core beside a GPU. Threads change the last digits of results, workers nothing.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    workers: int | None = None


@dataclass
class HubConfig:
    """What goes to the Hugging Face hub when a job is done; the token comes from the client's own login, never here."""

    push: bool = False
    repo: str | None = None
    parts: list[str] = field(default_factory=lambda: ["algorithm"])
    private: bool = True
    license: str | None = None


@dataclass
class TrackerConfig:
    """What is shown while it runs: ``rich``, ``plain`` or ``quiet``; ``log_file`` keeps all of it with times."""

    mode: str = "rich"
    log_file: str | None = None


@dataclass
class Config:
    """One candidate set-up, all of it."""

    task: TaskConfig = MISSING
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    sft: SFTConfig = MISSING
    feedback: FeedbackConfig = MISSING
    reward_model: RewardModelConfig = MISSING
    judge: JudgeConfig = MISSING
    algorithm: AlgorithmConfig = MISSING
    rollout: RolloutConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    hardware: HardwareConfig = MISSING
    tracker: TrackerConfig = MISSING
    hub: HubConfig = MISSING
    seed: int = 1
    candidate: str | None = None
    output_dir: str = "runs"
    plan: bool = False


SCHEMAS: dict[str, type] = {
    "root": Config,
    "task": TaskConfig,
    "data": DataConfig,
    "data_controlled": ControlledDataConfig,
    "data_local": LocalDataConfig,
    "data_hub": HubDataConfig,
    "model": ModelConfig,
    "model_api": APIModelConfig,
    "sft": SFTConfig,
    "feedback": FeedbackConfig,
    "reward_model": RewardModelConfig,
    "judge": JudgeConfig,
    "algorithm": AlgorithmConfig,
    "algorithm_ppo": PPOConfig,
    "algorithm_none": AlgorithmConfig,
    "algorithm_load": FinishedPolicyConfig,
    "rollout": RolloutConfig,
    "evaluation": EvaluationConfig,
    "hardware": HardwareConfig,
    "tracker": TrackerConfig,
    "hub": HubConfig,
}


def group_of(schema: str) -> str:
    """The configuration group that a schema describes a choice of; empty for the root.

    >>> [group_of(name) for name in ("root", "sft", "algorithm_ppo", "data_hub", "model_api", "reward_model")]
    ['', 'sft', 'algorithm', 'data', 'model', 'reward_model']
    """
    if schema.startswith(("algorithm_", "data_", "model_")):
        return schema.partition("_")[0]
    return "" if schema == "root" else schema


def register_schemas(schemas: Mapping[str, type] = SCHEMAS) -> None:
    """Put the schemas into Hydra's store, in a group of their own, so that no group offers one as a choice."""
    from hydra.core.config_store import ConfigStore

    for name, schema in schemas.items():
        _register(ConfigStore.instance(), name, schema)


@functools.cache
def _register(store: Any, name: str, schema: type) -> None:
    """Once for a store: making all nodes takes a third as long as composing from them."""
    store.store(group="schema", name=name, node=_with_open_mappings(OmegaConf.structured(schema)))


def _with_open_mappings(node: DictConfig) -> DictConfig:
    """Let ``data.columns.source=en`` name a new entry: what a mapping holds is the user's, and wants no ``+``."""
    for name in node:
        if OmegaConf.is_missing(node, name) or not isinstance(node[name], DictConfig):
            continue
        if OmegaConf.get_type(node[name]) is dict:
            OmegaConf.set_struct(node[name], False)
        else:
            _with_open_mappings(node[name])
    return node
