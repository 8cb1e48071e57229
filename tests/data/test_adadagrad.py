from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from thalweg.data import BatchSizeController, GradientMoments, GrowingBatchSampler
from thalweg.optim import Adagrad

ROWS = torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 1.0], [-2.0, 1.0]], dtype=torch.float64)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def data(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(5)
    x = torch.randn(count, 4, generator=draws, dtype=torch.float64)
    return x, (x @ torch.randn(4, 3, generator=draws, dtype=torch.float64)).argmax(1)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"test": "norm", "eta": 0.5}, 11),  # 16/3 / (0.25 * 2) = 10.67
        ({"test": "inner", "theta": 0.5}, 4),  # 4 / (0.25 * 4) = 4: passes
        ({"test": "inner", "theta": 0.4}, 7),  # 6.25
        ({"test": "augmented", "theta": 0.5, "nu": 0.5}, 7),  # 10/3 / (0.25 * 2) = 6.67
        ({"test": "augmented", "theta": 0.3, "nu": 0.5}, 12),  # 11.1
        ({"test": "coordinate", "eta": 0.5}, 19),  # 14/3 / 0.25 = 18.67
        ({"test": "norm", "eta": 0.5, "max_batch": 9}, 9),
        ({"test": "norm", "eta": 0.5, "growth_cap": 2}, 8),
    ],
)
def test_by_hand(settings, size: int) -> None:
    controller = BatchSizeController(4, **settings)
    assert controller.propose(ROWS) == controller.batch_size == size
    assert controller.stats()["variance"] == pytest.approx(16 / 3) and controller.stats()["squared_norm"] == 2.0


def test_variance_splits_into_along_and_orthogonal() -> None:
    moments = GradientMoments()
    moments.add(ROWS)
    noise = moments.noise([ROWS @ moments.mean])
    assert noise.mean.tolist() == [1.0, 1.0] and noise.variance.tolist() == pytest.approx([14 / 3, 2 / 3])
    assert noise.inner_variance == pytest.approx(4.0)
    assert noise.orthogonality(1.0) * 2 == pytest.approx(10 / 3)
    draws = torch.randn(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = GradientMoments()
    moments.add(draws)
    mean = draws.mean(0)
    orthogonal = draws - (draws @ mean / mean.square().sum())[:, None] * mean
    noise = moments.noise([draws @ mean])
    expected = orthogonal.var(0).sum() / mean.square().sum()
    assert noise.orthogonality(1.0) == pytest.approx(expected.item(), rel=1e-10)


def test_pieces_give_what_the_whole_gives_even_far_from_zero() -> None:
    rows = 1e6 + torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    whole, pieces = GradientMoments(), GradientMoments()
    whole.add(rows)
    for part in rows.split((7, 20, 1, 22)):
        pieces.add(part)
    for moments in (whole, pieces):
        torch.testing.assert_close(moments.noise().variance, rows.double().var(0).float(), rtol=0.02, atol=0)
    assert pieces.count == 50


@pytest.mark.parametrize("test", ["norm", "inner", "augmented", "coordinate"])
def test_equal_examples_change_nothing_and_scale_does_not_matter(test: str) -> None:
    controller = BatchSizeController(4, test)
    assert controller.propose(torch.ones(4, 3)) == controller.propose(torch.zeros(4, 3)) == 4
    sizes = {BatchSizeController(4, test, eta=0.5).propose(c * ROWS) for c in (1.0, 2.0**-30, 2.0**30)}
    assert len(sizes) == 1


def test_batches_never_shrink() -> None:
    controller = BatchSizeController(64, eta=0.9)
    assert controller.propose(ROWS) == 64
    assert controller.propose(100 * torch.eye(4)) == 64


def test_pure_noise_asks_for_growth_by_one_over_eta_squared() -> None:
    """The mean's square is then the variance over b."""
    draws = torch.Generator().manual_seed(0)
    ratios = [BatchSizeController(32, eta=0.5).propose(torch.randn(32, 2000, generator=draws)) / 32 for _ in range(20)]
    assert sum(ratios) / 20 == pytest.approx(4.0, rel=0.05)


def test_a_vanishing_mean_jumps_to_the_limit() -> None:
    rows = torch.tensor([[1.0], [-1.0]])
    assert BatchSizeController(2, max_batch=500).propose(rows) == 500
    assert BatchSizeController(2, "coordinate", max_batch=500).propose(rows) == 500
    assert BatchSizeController(2, growth_cap=3).propose(rows) == 6
    with pytest.raises(
        ValueError, match=r"^the mean gradient vanishes, so that no batch is large enough: give max_batch"
    ):
        BatchSizeController(2).propose(rows)


@pytest.mark.parametrize("test", ["norm", "augmented"])
@pytest.mark.parametrize("chunk_size", [None, 7, 20])
@pytest.mark.parametrize("interval", [1, 2])
def test_the_gradient_is_that_of_the_whole_batch(test, chunk_size, interval) -> None:
    """With and without a test on the step, in chunks or not; and the decision doesn't depend on the chunks."""
    model, (x, y) = net(), data()
    expected = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(expected, model.parameters())
    controller = BatchSizeController(40, test, eta=0.3, theta=0.1, nu=0.3, interval=interval)
    alone = BatchSizeController(40, test, eta=0.3, theta=0.1, nu=0.3)
    alone.backward(net(), F.cross_entropy, x, y)
    assert alone.batch_size > 40
    for _ in range(2):
        controller.batch_size = 40
        loss = controller.backward(model, F.cross_entropy, x, y, chunk_size=chunk_size)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12) and not loss.requires_grad
        for p, g in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-13)
        controller_size = controller.batch_size
        if interval == 1:
            assert controller_size == alone.batch_size
    assert controller_size == (alone.batch_size if interval == 1 else 40)


def test_calendar_limit_and_resuming() -> None:
    controller = BatchSizeController(4, eta=0.5, interval=3, max_batch=12)
    model, (x, y) = net(), data(4)
    due = []
    for _ in range(7):
        due.append(controller.due)
        controller.backward(model, F.cross_entropy, x, y)
        controller.batch_size = 4
    assert due == [True, False, False, True, False, False, True]
    controller.batch_size = 11
    resumed = BatchSizeController(4, eta=0.5, interval=3, max_batch=12)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.batch_size == 11 and not resumed.due and resumed.stats() == controller.stats()
    full = BatchSizeController(4, max_batch=4)
    full.backward(model, F.cross_entropy, x, y)
    assert not full.due and full.stats() == {}


def test_a_single_example_waits() -> None:
    controller, (x, y) = BatchSizeController(8), data(1)
    controller.backward(net(), F.cross_entropy, x, y)
    assert controller.batch_size == 8 and controller.stats() == {}
    with pytest.raises(ValueError, match=r"^the variance of gradients needs two examples or more, not 1$"):
        controller.propose(torch.ones(1, 3))


def test_frozen_parameters_have_no_part() -> None:
    model, (x, y) = net(), data(8)
    model[0].requires_grad_(False)
    BatchSizeController(8).backward(model, F.cross_entropy, x, y)
    assert model[0].weight.grad is None and model[3].weight.grad is not None


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.BatchNorm1d(6),
            r"^1 mixes the batch's examples, .* use GroupNorm, or put batch normalization in evaluation",
        ),
        (nn.Dropout(0.5), r"^1 draws at random, .*put dropout in evaluation mode$"),
    ],
)
def test_layers_without_gradients_of_single_examples(layer, message) -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3)).double(), data(8)
    with pytest.raises(RuntimeError, match=message):
        BatchSizeController(8).backward(model, F.cross_entropy, x, y)
    layer.eval()
    assert BatchSizeController(8).backward(model, F.cross_entropy, x, y).isfinite()


class Drawing(nn.Module):
    """Draws at random without a layer that says so."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True) if attention else None
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.attention is None:
            return self.last(F.dropout(x, 0.5, training=self.training))
        x = torch.stack([x, x + 1], dim=1)
        return self.last(self.attention(x, x, x)[0].mean(1))


@pytest.mark.parametrize("attention", [True, False])
def test_functions_that_draw_are_refused_before_anything_changes(attention: bool) -> None:
    model, (x, y) = Drawing(attention).double(), data(8)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    controller = BatchSizeController(8)
    state, draws = controller.state_dict(), torch.get_rng_state()
    with pytest.raises(
        RuntimeError, match=r"^the model or the loss draws at random, .*dropout \(attention's too\) to 0$"
    ):
        controller.backward(model, F.cross_entropy, x, y, chunk_size=4)
    assert controller.state_dict() == state and torch.equal(torch.get_rng_state(), draws)
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())
    assert controller.backward(model.eval(), F.cross_entropy, x, y, chunk_size=4).isfinite()


def test_a_loader_with_adagrad_grows_and_learns() -> None:
    """AdAdaGrad as a user writes it: every example once an epoch, fewer and fewer steps, a falling loss."""
    model, (x, y) = net(), data(400)
    controller = BatchSizeController(8, eta=0.7)
    dataset = TensorDataset(x, y)
    sampler = GrowingBatchSampler(dataset, controller, generator=torch.Generator().manual_seed(0))
    optimizer = Adagrad(model, lr=0.1, initial_accumulator_value=1e-2)
    losses, steps, seen = [], [], []
    for _ in range(6):
        sizes = []
        for inputs, targets in DataLoader(dataset, batch_sampler=sampler):
            losses.append(controller.backward(model, F.cross_entropy, inputs, targets, chunk_size=64).item())
            optimizer.step()
            sizes.append(len(inputs))
        assert sum(sizes) == 400
        steps.append(len(sizes))
        seen += sizes[:-1]
    assert controller.max_batch == 400 and 8 < controller.batch_size <= 400
    assert steps[-1] < steps[0] and seen == sorted(seen)
    assert sum(losses[-3:]) / 3 < 0.5 * losses[0]


def test_the_sampler() -> None:
    controller = BatchSizeController(4, max_batch=100)
    sampler = GrowingBatchSampler(range(10), controller, generator=torch.Generator().manual_seed(0))
    first, second = [list(sampler) for _ in range(2)]
    assert (
        [len(b) for b in first] == [4, 4, 2]
        and sorted(first[0] + first[1] + first[2]) == list(range(10))
        and first != second
    )
    assert [len(b) for b in GrowingBatchSampler(range(10), controller, drop_last=True)] == [4, 4]
    controller.batch_size = 100
    assert [len(b) for b in GrowingBatchSampler(range(10), controller, drop_last=True)] == [10]
    with pytest.raises(ValueError, match=r"^there is nothing to draw batches from$"):
        GrowingBatchSampler([], controller)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchSizeController(1), "batch_size must be 2 or more, not 1: one example has no variance"),
        (lambda: BatchSizeController(8, "t"), "unknown test 't' (choose from norm, inner, augmented, coordinate)"),
        (lambda: BatchSizeController(eta=0.0), "Invalid eta: 0.0 (must be in (0, 1))"),
        (lambda: BatchSizeController(nu=-1.0), "Invalid nu: -1.0 (must be a number > 0)"),
        (lambda: BatchSizeController(max_batch=4), "max_batch 4 is below the first batch_size 8"),
        (lambda: BatchSizeController(interval=0), "interval must be at least 1, not 0"),
        (lambda: BatchSizeController(growth_cap=1.0), "growth_cap must be above 1, not 1.0"),
        (lambda: BatchSizeController().propose(torch.full((2, 2), math.nan)),
         "the gradients hold NaN: no batch size follows from them"),
        (lambda: BatchSizeController().backward(net(), F.cross_entropy, *data(4), chunk_size=0),
         "chunk_size must be at least 1, not 0"),
    ],
)  # fmt: skip
def test_mistakes(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
