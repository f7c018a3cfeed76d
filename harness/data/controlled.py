"""Examples of a controlled world: drawn one by one, each from its own seed, until every split is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from random import Random
from typing import NamedTuple

from harness.data.splits import HELD_OUT_SHARES, content, controlled_split, normalise
from harness.errors import UserError
from harness.types import SPLITS, TRAIN_SPLITS, Example, Split, Task, World

BLOCK = 2048
"""Examples per unit of work; what is generated does not depend on it."""


class _Candidate(NamedTuple):
    split: Split
    prompt_key: bytes
    example: Example


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that example i depends on, so that any process can make it."""

    world: World
    field_names: tuple[str, ...]
    seed: int
    shares: dict[Split, float]
    references: int

    def random(self, index: int, purpose: str) -> Random:
        digest = blake2b(f"{self.world.name}:{self.seed}:{index}:{purpose}".encode(), digest_size=8).digest()
        return Random(int.from_bytes(digest, "big"))

    def block(self, start: int, wanted: frozenset[Split]) -> list[_Candidate]:
        """Examples start, start + 1, …, start + BLOCK - 1, without those whose split is not wanted any more."""
        made = (self._candidate(index, wanted) for index in range(start, start + BLOCK))
        return [candidate for candidate in made if candidate is not None]

    def _candidate(self, index: int, wanted: frozenset[Split]) -> _Candidate | None:
        draw = self.world.draw(self.random(index, "prompt"))
        key = normalise(content(draw.fields, self.field_names))
        split = controlled_split(key, self.shares, seed=self.seed)
        if split not in wanted:
            return None
        # Streams of their own: another mixture of demonstrations leaves prompts and references as they are.
        response, style = self.world.demonstrate(draw.facts, self.random(index, "response"))
        references = self.world.references(draw.facts, self.random(index, "references"), self.references)
        example = Example(
            id=f"{self.world.name}-{self.seed}-{index}",
            fields=draw.fields,
            response=response,
            references=references,
            facts={**draw.facts, "_style": style},
        )
        return _Candidate(split, blake2b(key.encode(), digest_size=16).digest(), example)


def generate(
    world: World, task: Task, *, seed: int, sizes: Mapping[Split, int], references: int, workers: int = 1
) -> dict[Split, list[Example]]:
    """Generate each split's examples; the result depends on world, seed, sizes and references alone.

    Example i has random streams of its own, derived from (world, seed, i). Its split follows from the hash of its
    normalised prompt, and a prompt that was drawn before is dropped, so no prompt stands in two splits or twice in one.
    A tenth of all prompts each is set aside for validation and test: those splits stay when a train size changes.
    ``Example.facts["_style"]`` names the style that the demonstration was drawn from.

    Args:
        sizes: split -> number of examples; splits that are left out stay empty.
        references: references per example.
        workers: processes that generate; 1 works in this process.

    Raises:
        UserError: where a split asks for more different prompts than the world gives (data.sizes).
    """
    targets: dict[Split, int] = {split: sizes.get(split, 0) for split in SPLITS}
    shares: dict[Split, float] = {split: float(targets[split]) for split in TRAIN_SPLITS}
    plan = _Plan(world, task.required_fields, seed, shares, references)
    found: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    seen: set[bytes] = set()
    wanted = {split for split in SPLITS if targets[split] > 0}
    limit = _most_draws(targets)
    blocks = _blocks(plan, wanted, workers)
    drawn = 0
    while wanted:
        for split, prompt_key, example in next(blocks):
            if split in wanted and prompt_key not in seen:
                seen.add(prompt_key)
                found[split].append(example)
                if len(found[split]) == targets[split]:
                    wanted.discard(split)
        drawn += BLOCK
        if wanted and drawn >= limit:
            raise _used_up(world, targets, found, drawn)
    blocks.close()
    return found


def _blocks(plan: _Plan, wanted: set[Split], workers: int) -> Generator[list[_Candidate], None, None]:
    """Blocks in order. ``wanted`` is the caller's and shrinks meanwhile: full splits are not worked on any more."""
    starts = count(0, BLOCK)
    if workers == 1:
        for start in starts:
            yield plan.block(start, frozenset(wanted))
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing import get_context

    # spawn: a fork would copy the locks of torch's and tokenizers' threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[list[_Candidate]]] = deque()
        try:
            while True:
                while len(waiting) < workers + 1:
                    waiting.append(pool.submit(plan.block, next(starts), frozenset(wanted)))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _most_draws(targets: Mapping[Split, int]) -> int:
    """Twenty times the draws that would fill every split if no prompt came twice."""
    held_out = sum(HELD_OUT_SHARES.values())
    needed = [targets[split] / share for split, share in HELD_OUT_SHARES.items()]
    needed.append(sum(targets[split] for split in TRAIN_SPLITS) / (1 - held_out))
    return 10 * BLOCK + 20 * int(max(needed))


def _used_up(world: World, targets: Mapping[Split, int], found: Mapping[Split, list[Example]], drawn: int) -> UserError:
    split = next(split for split in SPLITS if len(found[split]) < targets[split])
    rule = f"is more than the world {world.name!r} has: {drawn} draws gave {len(found[split])} different prompts"
    return UserError(f"data.sizes.{split}", targets[split], rule, f"lower it to at most {len(found[split])}")
