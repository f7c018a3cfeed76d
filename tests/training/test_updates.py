from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from harness.config import OptimizerConfig
from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.training import updates as updates_module
from harness.training.updates import Updates, accumulate, length_batches, micro_batches, rows_per_pass


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values))


def config(**changes: object) -> OptimizerConfig:
    return OptimizerConfig(**{"lr": 0.1, "warmup": 0.0, **changes})


def updating(parameters: list[torch.nn.Parameter], config: OptimizerConfig, total: int, **options: float) -> Updates:
    return Updates(torch.nn.ParameterList(parameters), config=config, total=total, **options)


def course(updates: Updates, weight: torch.nn.Parameter, count: int) -> list[float]:
    rates = []
    for _ in range(count):
        rates.append(updates.lr)
        weight.grad = torch.ones_like(weight)
        updates.step()
    return rates


def test_the_learning_rate_runs_its_course():
    assert course(updating([w := parameter(1.0)], config(), 4), w, 4) == pytest.approx([0.1, 0.075, 0.05, 0.025])
    flat = config(schedule="constant", warmup=0.5)
    assert course(updating([w := parameter(1.0)], flat, 4), w, 5) == [0.1] * 5
    cosine = [0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert course(updating([w := parameter(1.0)], config(schedule="cosine"), 4), w, 4) == pytest.approx(cosine)
    rise = config(warmup=0.5)  # two of four updates: 1/3, 2/3, then the line from the peak
    assert course(updating([w := parameter(1.0)], rise, 4), w, 4) == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.05])
    assert course(updating([w := parameter(1.0)], rise, 1), w, 1) == [0.1], "one update has no room to warm up"


def test_the_rate_of_the_schedule_is_the_rate_applied():
    """Adam's first step moves by the learning rate (eps aside), whatever the gradient's size."""
    weight = parameter(1.0)
    updates = updating([weight], config(warmup=0.5, eps=1e-12), 4)
    weight.grad = torch.tensor([0.3])
    updates.step()
    assert float(weight.detach()) == pytest.approx(1.0 - 0.1 / 3, abs=1e-6)


def test_another_peak_than_the_configurations():
    assert updating([parameter(1.0)], config(), 4, lr=0.02).lr == 0.02
    assert updating([parameter(1.0)], config(), 4, lr=None).lr == 0.1


def test_the_norm_is_that_before_clipping_and_the_gradient_is_clipped():
    """SGD-like check through Adam's first moment: it holds (1 - beta1) times the clipped gradient."""
    weight = parameter(1.0, 1.0)
    updates = updating([weight], config(max_grad_norm=1.0), 4)
    weight.grad = torch.tensor([3.0, 4.0])
    assert updates.step() == pytest.approx(5.0)
    first_moment = updates.optimizers[0].state[weight]["exp_avg"]
    torch.testing.assert_close(first_moment, 0.1 * torch.tensor([0.6, 0.8]), atol=1e-5, rtol=1e-4)
    assert weight.grad is None, "cleared for the next accumulation"
    assert updates.done == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_ends_the_run_before_it_touches_a_weight(bad):
    weight = parameter(1.0, 2.0)
    updates = updating([weight], config(), 4)
    weight.grad = torch.tensor([bad, 0.0])
    with pytest.raises(RunFailed, match=r"gradient norm is (nan|inf) at update 0"):
        updates.step()
    assert weight.tolist() == [1.0, 2.0]


def test_frozen_parameters_are_left_out():
    frozen, trained = parameter(1.0), parameter(1.0)
    frozen.requires_grad_(False)
    assert updating([frozen, trained], config(), 4).parameters == [trained]


def test_the_state_goes_on_where_it_was_saved():
    runs = []
    for interrupted in (False, True):
        weight = parameter(1.0, -2.0)
        updates = updating([weight], config(), 6)
        for k in range(6):
            if interrupted and k == 3:
                saved = {"weight": weight.detach().clone(), "updates": updates.state_dict()}
                weight = torch.nn.Parameter(saved["weight"])
                updates = updating([weight], config(), 6)
                updates.load_state_dict(saved["updates"])
            weight.grad = torch.tensor([0.5 * k - 1, 0.3])
            updates.step()
        runs.append(weight.detach())
    assert torch.equal(*runs)


def test_muon_moves_a_layers_matrix_along_all_its_directions_alike_and_leaves_the_rest_to_adamw():
    """Against a singular value decomposition: the step is -lr * 0.2 * sqrt(larger side) * U V', within Muon's slack."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.wte, model.h = torch.nn.Embedding(5, 8), torch.nn.ModuleList([torch.nn.Linear(8, 12)])
    model.score = torch.nn.Linear(8, 1, bias=False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    updates = Updates(model, config=config(kind="muon", max_grad_norm=1e9, eps=1e-12), total=4)
    gradients = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    updates.step()
    moved = {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}
    for name in ("wte.weight", "h.0.bias", "score.weight"):
        torch.testing.assert_close(moved[name], -0.1 * gradients[name].sign(), atol=1e-4, rtol=0)
    left, _, right = torch.linalg.svd(gradients["h.0.weight"], full_matrices=False)
    along = -(left.T @ moved["h.0.weight"] @ right.T) / (0.1 * 0.2 * 12**0.5)
    assert ((along.diagonal() > 0.35) & (along.diagonal() < 1.65)).all()
    assert (along - along.diagonal().diag()).abs().max() < 0.1


def test_micro_batches_cover_the_rows_in_order():
    assert [list(rows) for rows in micro_batches([5, 6, 7, 8, 9], 2)] == [[5, 6], [7, 8], [9]]
    assert [list(rows) for rows in micro_batches([5, 6], None)] == [[5, 6]]
    assert list(micro_batches([], None)) == []


@pytest.mark.parametrize(("count", "size"), [(1, 4), (7, 3), (64, 8), (300, 8), (33, 32)])
def test_an_epoch_has_every_row_once_in_batches_of_similar_length(count, size):
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 100, (count,), generator=generator).tolist()
    batches = length_batches(lengths, size, generator)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert len(batches) == math.ceil(count / size), "as many as total_steps counts on"
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    if count == 300:

        def padding(rows: list[list[int]]) -> int:
            return sum(max(lengths[r] for r in batch) * len(batch) - sum(lengths[r] for r in batch) for batch in rows)

        plain = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        assert padding(batches) < 0.4 * padding(plain)


def test_epochs_differ_and_the_generator_decides():
    lengths = list(range(50))
    generator = torch.Generator().manual_seed(0)
    first, second = length_batches(lengths, 5, generator), length_batches(lengths, 5, generator)
    assert first != second
    assert length_batches(lengths, 5, torch.Generator().manual_seed(0)) == first


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 2, 4], [1, 3, 5]]),
        ({"group": 2}, [[0, 1, 4, 5], [2, 3]]),
        ({"group": 6}, [[0, 1, 2, 3, 4, 5]]),
        ({"size": 4}, [[0, 1, 2, 3], [4, 5]]),
        ({"size": 6}, [[0, 1, 2, 3, 4, 5]]),
        ({"hardware": Hardware("cpu", "bf16", 1, 2)}, [[0, 2, 4], [1, 3, 5]]),
        ({"hardware": Hardware("cuda", "fp32", 1, 2)}, [[0, 1, 2, 3, 4, 5]]),
        ({"model": torch.nn.Dropout(0.1).train()}, [[0, 1, 2, 3, 4, 5]]),
        ({"model": torch.nn.Dropout(0.1).eval()}, [[0, 2, 4], [1, 3, 5]]),
        ({"model": torch.nn.Dropout(0.0).train()}, [[0, 2, 4], [1, 3, 5]]),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_goes_in_halves_unless_something_is_against_it(options, expected, workers):
    given = {"size": None, "model": torch.nn.Linear(1, 1), "hardware": Hardware("cpu", "fp32", 1, workers), **options}
    assert accumulate(range(6), given.pop("size"), list, **given) == expected


def learner(seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    model = torch.nn.Linear(5, 3)
    model.config = SimpleNamespace(hidden_size=64, num_hidden_layers=2, is_encoder_decoder=False)
    return model


@pytest.fixture
def four_at_a_time(monkeypatch: pytest.MonkeyPatch) -> int:
    """The tokens of a group of which two passes at the same time have four each."""
    monkeypatch.setattr(updates_module, "GRAPH_NUMBERS", 2 * 4 * 2048 * 128)
    return 2048


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("rows", "group", "expected"),
    [
        (32, 1, [[0, 8, 16, 24], [1, 9, 17, 25], [2, 10, 18, 26], [3, 11, 19, 27]]),
        (8, 1, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (10, 1, [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]),
        (20, 2, [[0, 1, 8, 9, 16, 17], [2, 3, 10, 11, 18, 19], [4, 5, 12, 13], [6, 7, 14, 15]]),
        (3, 1, [[0, 2], [1]]),
    ],
)
def test_a_batch_with_a_large_graph_goes_in_several_rounds(rows, group, expected, workers, four_at_a_time):
    given = {"model": learner(), "hardware": Hardware("cpu", "fp32", 1, workers), "tokens": four_at_a_time}
    found = accumulate(range(rows), None, list, **given, group=group)
    assert found[: len(expected)] == expected
    assert sorted(row for piece in found for row in piece) == list(range(rows))
    assert len(found) == math.ceil(rows / group / 8) * min(2, rows // group)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("tokens", "precision", "passes"), [(1023, "fp32", 1), (1024, "fp32", 2), (2047, "bf16", 1), (2048, "bf16", 2)]
)
def test_halves_that_are_no_work_to_speak_of_stay_together(
    tokens, precision, passes, workers, halves_of_any_size, monkeypatch
):
    """Whatever else is at work: numbers must not depend on that."""
    monkeypatch.setattr(updates_module, "WORTH_A_PASS", halves_of_any_size)
    given = {"model": learner(), "hardware": Hardware("cpu", precision, 1, workers), "tokens": tokens}
    assert len(accumulate(range(2), None, list, **given)) == passes


def test_groups_longer_than_a_graph_go_one_by_one(monkeypatch):
    monkeypatch.setattr(updates_module, "GRAPH_NUMBERS", 1)
    given = {"model": learner(), "hardware": Hardware("cpu", "fp32", 1, 2), "tokens": 512}
    assert accumulate(range(3), None, list, **given) == [[0], [1], [2]]


def test_a_larger_model_may_hold_a_larger_graph(monkeypatch):
    monkeypatch.setattr(updates_module, "GRAPH_NUMBERS", 1)
    model, hardware = learner(), Hardware("cpu", "fp32", 1, 2)
    model.more = torch.nn.Parameter(torch.zeros(6 * 128 * 100))
    assert rows_per_pass(10, of=30, model=model, hardware=hardware) == 10
    assert rows_per_pass(10, of=30, model=model, hardware=hardware, at_once=2) == 5
    other = torch.nn.ParameterList([torch.zeros(6 * 128 * 50), model.more])  # what they share is held once
    assert rows_per_pass(10, of=30, model=model, hardware=hardware, beside=[other]) == 15


@pytest.mark.parametrize(
    ("device", "precision", "passes"),
    [("cpu", "fp32", 6), ("cpu", "bf16", 6), ("cuda", "fp32", 1), ("cuda", "bf16", 1)],
)
def test_a_gpu_has_the_whole_batch_in_one_pass(device, precision, passes, monkeypatch):
    monkeypatch.setattr(updates_module, "GRAPH_NUMBERS", 1)
    given = {"model": learner(), "hardware": Hardware(device, precision, 1, 2), "tokens": 512}
    assert len(accumulate(range(6), None, list, **given)) == passes


def gradients(precision: str, workers: int, tokens: int, before: float | None = None) -> torch.Tensor:
    """Of a sum of squares over 32 rows."""
    texts, model = torch.randn(32, 5, generator=torch.Generator().manual_seed(1)), learner()
    model.unused = torch.nn.Parameter(torch.ones(2))
    if before is not None:
        model.bias.grad = torch.full((3,), before)

    def learn(rows: Sequence[int]) -> int:
        (model(texts[list(rows)]) ** 2).sum().backward()
        return len(rows)

    hardware = Hardware("cpu", precision, 1, workers)
    counts = accumulate(range(32), None, learn, model=model, hardware=hardware, tokens=tokens)
    assert sum(counts) == 32
    assert (len(counts) > 2) == (tokens > 0)
    assert model.unused.grad is None
    return torch.cat([model.weight.grad.flatten(), model.bias.grad])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_several_rounds_are_those_of_the_whole_batch(precision, four_at_a_time):
    """Whichever thread is the faster, to the bit."""
    found = [gradients(precision, workers, four_at_a_time) for workers in (1, 2, 2, 2, 2, 2)]
    torch.testing.assert_close(found[0], gradients(precision, 1, 0), rtol=1e-5, atol=1e-4)
    assert all(torch.equal(each, found[0]) for each in found)


def test_gradients_of_several_rounds_are_added_to_those_that_are_there(four_at_a_time):
    added = gradients("fp32", 1, four_at_a_time, before=0.5) - gradients("fp32", 1, four_at_a_time)
    torch.testing.assert_close(added, torch.tensor([0.0] * 15 + [0.5] * 3), rtol=0, atol=1e-4)


def test_one_row_is_not_halved():
    hardware = Hardware("cpu", "fp32", 1, 2)
    assert accumulate([7], None, list, model=torch.nn.Linear(1, 1), hardware=hardware) == [[7]]
