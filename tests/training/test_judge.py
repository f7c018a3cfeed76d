"""What the judge learns to compare: draws of the mixture, and foils among them."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import JudgeConfig, ModelConfig
from harness.data.prompts import CutReport
from harness.models.loading import save
from harness.training import judge
from harness.training.judge import FOIL_SHARE, mixture_pair, run_judge
from harness.types import Demonstration, Example, PairExample


class World:
    """Draws responses that say which prompt they answer."""

    def demonstrate(self, facts: Any, rng: Random) -> Demonstration:
        return Demonstration(f"sound answer number {facts['n']} draw {rng.randrange(10**6)}", "good")


EXAMPLES = [
    Example(id=str(n), fields={}, response=f"sound answer number {n} shown", references=[], facts={"n": n})
    for n in range(50)
]


def sound(text: str, row: int) -> bool:
    return text.startswith(f"sound answer number {row} draw ") and len(text.split()) == 6


def test_most_pairs_are_two_draws_and_the_stated_share_holds_one_foil_on_either_side():
    rng, places = Random(0), Counter[tuple[bool, bool]]()
    for n in range(4000):
        row = n % 50
        pair = mixture_pair(World(), EXAMPLES, row, rng, foils=FOIL_SHARE)
        places[sound(pair[0], row), sound(pair[1], row)] += 1
        assert any(sound(text, row) for text in pair), "one of the two is always a draw"
    foils = places[True, False] + places[False, True]
    # A shuffle may give the words back in order, and does so too rarely to show.
    assert abs(foils / 4000 - FOIL_SHARE) < 0.02
    assert abs(places[True, False] / foils - 0.5) < 0.1


def test_the_stream_decides():
    first, same, other = (mixture_pair(World(), EXAMPLES, 3, Random(seed)) for seed in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize("source", ["train", "load"])
def test_what_is_cut_for_the_judge_is_counted(make_lm, make_scorer, hardware, tmp_path, monkeypatch, source):
    """Of each list of prompts, and of the responses in it; here a judge of too few pairs, and a given one."""
    limit, backbone = 3, make_lm()
    monkeypatch.setattr(judge, "base_model", lambda *_: backbone)
    monkeypatch.setattr(judge, "imitate", lambda *_, **__: {})
    save(make_scorer(), tmp_path / "given")
    config = JudgeConfig(source=source, path=str(tmp_path / "given"), model=ModelConfig(kind="nano"), responses="pairs")
    job: Any = SimpleNamespace(
        config=SimpleNamespace(
            judge=config, task=SimpleNamespace(max_response_tokens=limit, max_prompt_tokens=9), model=config.model
        ),
        # As many prompts as there are stand for the share, so that each list can be told from the others.
        prompts=lambda examples, codec: (["the fox"] * len(examples), CutReport(len(examples) / 100, 0.0)),
        hardware=hardware,
        task=None,
        world=None,
    )
    short, long = "a", "the red fox sings and sings"
    pairs = {
        "judge": [PairExample(str(n), {}, short, long) for n in range(2)],
        "validation": [PairExample(str(n), {}, long, short if n else long) for n in range(4)],
    }
    shown = [Example(str(n), {}, long if n == 0 else short, []) for n in range(5)]
    job.data = lambda workspace: SimpleNamespace(pairs=pairs, splits={"judge": shown, "validation": []})
    bar = SimpleNamespace(update=lambda *_: None)
    workspace: Any = SimpleNamespace(
        directory=tmp_path,
        seed_for=lambda purpose: 0,
        log=None,
        progress=SimpleNamespace(stage=lambda *_: nullcontext(bar)),
    )
    found = run_judge(workspace, job)
    heldout = {"cut_share": 0.04, "lost_answer_share": 0.0, "response_cut_share": 5 / 8}
    if source == "load":
        assert found["cuts"] == {"heldout": heldout}
    else:
        assert not found["available"]
        assert found["cuts"] == {
            "backbone": {"cut_share": 0.05, "lost_answer_share": 0.0, "response_cut_share": 1 / 5},
            "train": {"cut_share": 0.02, "lost_answer_share": 0.0, "response_cut_share": 1 / 2},
            "heldout": heldout,
        }
