"""Prompts that fit the model: built by the task, cut by its rule where they are too long, and the cuts counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.errors import RunFailed, UserError
from harness.types import Example, Task


class CutReport(NamedTuple):
    """What cutting did, as shares of all examples (0 to 1).

    Args:
        cut_share: examples whose prompt was cut.
        lost_answer_share: examples whose uncut prompt held a reference verbatim while the cut one does not.
    """

    cut_share: float
    lost_answer_share: float


def fit_prompts(
    task: Task, examples: Sequence[Example], *, count_tokens: Callable[[str], int], max_prompt_tokens: int
) -> tuple[list[str], CutReport]:
    """One prompt per example, each of at most ``max_prompt_tokens`` tokens.

    Args:
        count_tokens: prompt -> number of tokens the model would read.

    Raises:
        UserError: where an example does not fit even when cut to the least that its task allows
            (task.max_prompt_tokens).
        RunFailed: an example's prompt has no tokens, so that no first token of a response would follow anything.
    """
    empty: set[str] = set()

    def fits(prompt: str) -> bool:
        count = count_tokens(prompt)
        if count == 0:
            empty.add(prompt)
        return count <= max_prompt_tokens

    try:
        cuts = [task.cut(example, fits) for example in examples]
    except UserError as error:
        if error.key == "task.max_prompt_tokens":
            raise UserError(error.key, max_prompt_tokens, error.rule, error.remedy) from None
        raise
    for example, cut in zip(examples, cuts, strict=True):
        if cut.prompt in empty:
            raise RunFailed(
                f"the prompt of example {example.id} ({cut.prompt!r}) has no tokens, and a tokenizer that begins none "
                "with a BOS has nothing to respond to; give it a text, or leave the example out"
            )
    total = max(len(cuts), 1)
    report = CutReport(sum(cut.was_cut for cut in cuts) / total, sum(cut.lost_answer for cut in cuts) / total)
    return [cut.prompt for cut in cuts], report
