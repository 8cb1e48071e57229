"""Winsorized means, medians of three, micro-batches in a loop, and the rolling median as a transform."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from thalweg.autodiff import per_example_gradients
from thalweg.optim import SGD, MicroBatchGradients, coherent_gradients, median_of_three, rolling_median, winsorized_mean

ROWS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_winsorized_mean_by_hand() -> None:
    assert torch.equal(winsorized_mean(ROWS, 1), torch.tensor([0.5, 0.5]))
    assert torch.equal(winsorized_mean(ROWS, 0), ROWS.mean(0))


@pytest.mark.parametrize("count", [5, 6])
def test_the_largest_c_gives_the_median(count: int) -> None:
    rows = randoms(count, 3, 4)
    ordered = rows.sort(0).values
    middle = ordered[count // 2] if count % 2 else ordered[count // 2 - 1 : count // 2 + 1].mean(0)
    torch.testing.assert_close(winsorized_mean(rows, (count - 1) // 2), middle, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("c", [1, 3])
def test_both_ways_to_find_the_bounds_agree_with_the_definition(c: int, monkeypatch) -> None:
    rows = randoms(11, 40)
    ordered = rows.sort(0).values
    expected = torch.cat([ordered[c].expand(c, -1), ordered[c:-c], ordered[-1 - c].expand(c, -1)]).mean(0)
    monkeypatch.setattr(coherent_gradients, "BLOCK", 11 * 7)  # several blocks of columns
    for threshold in (1, 1000):
        monkeypatch.setattr(coherent_gradients, "SORT_BELOW", threshold)
        torch.testing.assert_close(winsorized_mean(rows, c), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0), (2, 1, 3)])
@pytest.mark.parametrize("c", [0, 1, 2])
def test_parameters_of_any_shape(shape: tuple[int, ...], c: int) -> None:
    rows = randoms(5, *shape)
    ordered = rows.sort(0).values
    expected = torch.cat([ordered[c : c + 1]] * c + [ordered[c : 5 - c]] + [ordered[4 - c : 5 - c]] * c).mean(0)
    found = winsorized_mean(rows, c)
    assert found.shape == shape
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    assert torch.equal(median_of_three(rows[:3]), rows[:3].median(0).values)


@pytest.mark.parametrize("combine", [median_of_three, functools.partial(winsorized_mean, c=1)])
def test_a_scalar_parameter_in_the_loop(combine) -> None:
    scale = nn.Parameter(torch.tensor(2.0))
    gradients = MicroBatchGradients([scale], combine)
    for factor in (1.0, 100.0, 3.0):
        (factor * scale).backward()
        gradients.store()
    gradients.combine()
    assert scale.grad is not None and scale.grad.shape == () and scale.grad.item() == 3.0


def test_sparse_gradients_are_refused_in_one_line() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1))
    gradients = MicroBatchGradients(model)
    model(torch.tensor([1, 3])).sum().backward()
    message = "MicroBatchGradients does not support sparse gradients (make the embedding dense)"
    with pytest.raises(RuntimeError) as caught:
        gradients.store()
    assert str(caught.value) == message and len(gradients) == 0
    assert all(p.grad is not None for p in model.parameters())


def test_what_at_most_c_examples_ask_for_is_not_done() -> None:
    rows = torch.zeros(10, 2)
    rows[:2, 0], rows[:3, 1] = 1e6, 1e6
    mean = winsorized_mean(rows, 2)
    assert mean[0] == 0 and mean[1] > 0


@pytest.mark.parametrize("threshold", [1, 1000])
def test_nan_stays_nan(threshold: int, monkeypatch) -> None:
    monkeypatch.setattr(coherent_gradients, "SORT_BELOW", threshold)
    rows = randoms(7, 3)
    rows[2, 1] = float("nan")
    assert winsorized_mean(rows, 1).isnan().tolist() == [False, True, False]
    assert median_of_three(rows[:3]).isnan().tolist() == [False, True, False]


def test_median_of_three_is_exact_beside_a_large_outlier() -> None:
    rows = [torch.tensor(r) for r in ([1.0, -2.0, 0.1], [1.2, 5.0, 0.0], [0.9, -1.0, -3.0])]
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        assert median_of_three([rows[i] for i in order]).tolist() == [1.0, -1.0, 0.0]
    assert median_of_three(torch.tensor([[0.1], [1e30], [-7.0]])).item() == torch.tensor(0.1).item()
    random = randoms(3, 1000)
    assert torch.equal(median_of_three(random), random.median(0).values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: winsorized_mean(ROWS, 2), "c must be from 0 to 1 for 4 gradients, not 2"),
        (lambda: winsorized_mean(ROWS, -1), "c must be from 0 to 1 for 4 gradients, not -1"),
        (lambda: median_of_three(ROWS), "median_of_three takes 3 gradients, not 4"),
        (lambda: MicroBatchGradients(nn.Linear(2, 2)).combine(),
         "no gradients to combine: call store() after each backward()"),
        (lambda: MicroBatchGradients(nn.Linear(2, 2)).store_rows(torch.ones(3, 5)),
         "rows must have 6 numbers each, not shape (3, 5)"),
    ],
)  # fmt: skip
def test_refusals(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def loop(model: nn.Module, combine, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    gradients = MicroBatchGradients(model, combine)
    for x, y in parts:
        nn.functional.mse_loss(model(x), y).backward()
        gradients.store()
        assert all(p.grad is None for p in model.parameters())
    assert len(gradients) == len(parts)
    gradients.combine()
    assert len(gradients) == 0
    return [p.grad for p in model.parameters()]


def test_micro_batches() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 2).double(), randoms(9, 4), randoms(9, 2, seed=1)
    parts = list(zip(x.chunk(3), y.chunk(3), strict=True))
    own = []
    for a, b in parts:
        model.zero_grad()
        nn.functional.mse_loss(model(a), b).backward()
        own.append([p.grad for p in model.parameters()])
    model.zero_grad()
    for found, gradients in zip(loop(model, median_of_three, parts), zip(*own, strict=True), strict=True):
        assert torch.equal(found, torch.stack(gradients).median(0).values)
    model.zero_grad()
    for found, gradients in zip(loop(model, lambda g: g.mean(0), parts), zip(*own, strict=True), strict=True):
        torch.testing.assert_close(found, sum(gradients) / 3, rtol=1e-14, atol=0)


def test_three_equal_micro_batches_are_one() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 2).double(), randoms(3, 4), randoms(3, 2, seed=1)
    found = [g.clone() for g in loop(model, median_of_three, [(x, y)] * 3)]
    model.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), found, strict=True))


def test_rows_of_per_example_gradients() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 2).double(), randoms(9, 4), randoms(9, 2, seed=1)
    rows = per_example_gradients(model, nn.functional.mse_loss, x, y)
    gradients = MicroBatchGradients(model, functools.partial(winsorized_mean, c=2))
    gradients.store_rows(rows)
    gradients.combine()
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(flat, winsorized_mean(rows, 2), rtol=1e-14, atol=0)


def test_missing_gradients_count_as_zero_and_unused_parameters_stay_without() -> None:
    a, b, frozen = (
        nn.Parameter(torch.ones(1)),
        nn.Parameter(torch.ones(1)),
        nn.Parameter(torch.ones(1), requires_grad=False),
    )
    gradients = MicroBatchGradients([a, b, frozen])
    assert gradients.params == [a, b]
    for value in (None, 2.0, 3.0):
        a.grad = None if value is None else torch.tensor([value])
        gradients.store()
    gradients.combine()
    assert a.grad.item() == 2.0 and b.grad is None


def path(gradients: list[float], **options) -> list[float]:
    p, moves = nn.Parameter(torch.zeros(1)), []
    optimizer = SGD([p], lr=1.0, momentum=0.0, **options)
    for g in gradients:
        before = p.item()
        p.grad = torch.tensor([float(g)])
        optimizer.step()
        moves.append(before - p.item())
    return moves


def test_rolling_median_lets_no_lone_outlier_pass() -> None:
    assert path([1, 1, 128, 1, 1, 128, 1], before=rolling_median()) == [1, 1, 1, 1, 1, 1, 1]
    assert path([4, 2, 3, 1, 0, 0], before=rolling_median()) == [4, 2, 3, 2, 1, 0]
    assert path([2] * 5, before=rolling_median()) == path([2] * 5)
