"""A cache with room holds what transformers' own cache holds, whatever happens to its rows."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from harness.models.roomy_cache import RoomyLayer, roomy


def states(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)


def filled(rows: int = 3, tokens: int = 5) -> tuple[DynamicLayer, RoomyLayer]:
    usual = DynamicLayer()
    keys, values = usual.update(*states(rows, tokens))
    return usual, RoomyLayer(keys, values, room=2)


def assert_same(usual: DynamicLayer, ours: RoomyLayer) -> None:
    assert torch.equal(usual.keys, ours.keys)
    assert torch.equal(usual.values, ours.values)
    assert usual.get_seq_length() == ours.get_seq_length()
    assert usual.get_mask_sizes(1) == ours.get_mask_sizes(1)


def test_it_grows_as_the_usual_one_does() -> None:
    usual, ours = filled()
    assert_same(usual, ours)
    for tokens in (1, 1, 1, 7, 1):
        new = states(3, tokens)
        theirs, own = usual.update(*new), ours.update(*new)
        assert all(torch.equal(one, other) for one, other in zip(theirs, own, strict=True))
        assert_same(usual, ours)


def test_a_step_copies_nothing_while_there_is_room() -> None:
    _, ours = filled()
    place = ours.keys.data_ptr()
    ours.update(*states(3, 1))
    ours.update(*states(3, 1))
    assert ours.keys.data_ptr() == place
    ours.update(*states(3, 1))
    assert ours.keys.data_ptr() != place


def test_rows_are_chosen_repeated_and_put_in_order() -> None:
    usual, ours = filled()
    for each in (usual, ours):
        each.batch_select_indices(torch.tensor([2, 0]))
    assert_same(usual, ours)
    new = states(2, 1)
    for each in (usual, ours):
        each.update(*new)
        each.batch_repeat_interleave(3)
    assert_same(usual, ours)
    for each in (usual, ours):
        each.reorder_cache(torch.tensor([5, 4, 3, 2, 1, 0]))
    assert_same(usual, ours)


def test_layers_of_other_kinds_are_left_alone() -> None:
    window, empty, usual = DynamicSlidingWindowLayer(sliding_window=4), DynamicLayer(), DynamicLayer()
    window.update(*states(1, 2))
    usual.update(*states(1, 2))
    made = roomy([window, empty, usual], tokens=3)
    assert made[:2] == [window, empty]
    assert isinstance(made[2], RoomyLayer)
    assert_same(usual, made[2])
    assert made[2]._all_keys.shape[-2] == 5, "no more room than tokens that may follow"


def test_what_a_cpu_has_in_bf16_is_kept_in_fp32() -> None:
    usual = DynamicLayer()
    usual.update(*(each.to(torch.bfloat16) for each in states(2, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = roomy([usual], tokens=3)[0]
        keys, _ = made.update(*(each.to(torch.bfloat16) for each in states(2, 1)))
    assert keys.dtype == torch.float32
    assert torch.equal(keys[:, :, :3], usual.keys.float())
    assert roomy([usual], tokens=3)[0].keys.dtype == torch.bfloat16, "without autocast the model is in bf16 itself"
