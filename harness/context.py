"""What every stage of one job shares: the configuration as objects, the task, its world, the hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config import Config
from harness.data.messages import in_chat
from harness.data.prepared import PreparedData
from harness.data.prompts import CutReport, fit_prompts
from harness.errors import UserError
from harness.hardware import Hardware
from harness.models.codec import REMEMBERED, Codec
from harness.rollouts.sampler import Sampling
from harness.stages import Workspace
from harness.types import Example, Task, World


@dataclass(frozen=True)
class Job:
    """One candidate set-up, resolved."""

    config: Config
    task: Task
    world: World | None
    hardware: Hardware

    def data(self, workspace: Workspace) -> PreparedData:
        """The prepared data set among a stage's inputs."""
        return PreparedData.read(workspace.inputs["data"].directory)

    def prompts(self, examples: Sequence[Example], codec: Codec) -> tuple[list[str], CutReport]:
        """The prompts of these examples as the codec's model reads them: in the task's words, or as conversations.

        They are cut by the task's rule to what ``task.max_prompt_tokens`` allows. What reads like a special token in an
        example is text to that codec.
        """
        task = self.task if codec.chat is None else in_chat(self.task, codec.conversation, codec.chat["system"])
        limit = self.config.task.max_prompt_tokens
        fields = codec.guard([example.fields for example in examples])
        answers = codec.guard([{"references": example.references} for example in examples])  # looked for in prompts
        rows = zip(examples, fields, answers, strict=True)
        examples = [
            example
            if each is example.fields and answer["references"] is example.references
            else replace(example, fields=dict(each), references=answer["references"])
            for example, each, answer in rows
        ]
        if codec.chat is None and len(examples) <= REMEMBERED:  # all at once, for the cuts, which count one by one
            codec.encode_prompts([task.prompt(example.fields) for example in examples])
        prompts, cuts = fit_prompts(task, examples, count_tokens=codec.count, max_prompt_tokens=limit)
        return [codec.unguard(prompt) for prompt in prompts], cuts

    def prompt_labels(self, examples: Sequence[Example]) -> list[str]:
        """The same for test prompts that are one, as sets of others may hold them: intervals draw them together."""
        return [self.task.prompt(example.fields) for example in examples]

    def require_test_prompts(self, examples: Sequence[Example]) -> None:
        """At least two test prompts that differ: whole prompts are drawn for every interval.

        Raises:
            UserError: there is one alone, once or several times.
        """
        if len(set(self.prompt_labels(examples))) < 2:
            data = self.config.data
            key, value = ("data.path", data.path) if data.path else ("data.sizes.test", len(examples))
            rule = "gives one test prompt, too few for an interval"
            raise UserError(key, value, rule, "give at least two that differ")

    def smooth_metric(self) -> str:
        """The sentence metric of a simulated annotator: token F1 where the task reports it, chrF elsewhere."""
        return "f1" if "f1" in self.config.task.metrics else "chrf"

    def training_sampling(self) -> Sampling:
        """How training rollouts are drawn: at what β, KL and best-of-n are measured."""
        rollout = self.config.rollout
        return Sampling(
            max_new_tokens=self.config.task.max_response_tokens,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            batch_size=rollout.batch_size,
            engine=rollout.engine,
            engine_memory=rollout.engine_memory,
        )


def model_directory(directory: Path) -> Path:
    """Where a stage keeps its model."""
    return directory / "model"
