from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.autodiff import Closure, gauss_newton_bartlett, sample_targets, sampled_loss
from thalweg.autodiff.gauss_newton_bartlett import likelihood_of

MANY = 1500


def softmax_regression() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(4, 3, bias=False).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    return net, x, (2 * x @ torch.randn(4, 3, dtype=torch.float64)).argmax(1)


def estimates(net, loss_fn, x, y, **options) -> torch.Tensor:
    """One estimate a row. One forward pass of a batch repeated MANY times would draw the same, but B would be another."""
    draws = torch.Generator().manual_seed(3)
    closure = Closure(net, loss_fn, x, y)
    return torch.stack(
        [gauss_newton_bartlett(closure, [net.weight], generator=draws, **options)[0] for _ in range(MANY)]
    )


def within(rows: torch.Tensor, exact: torch.Tensor, errors: float = 3.5) -> bool:
    return bool(((rows.mean(0) - exact).abs() < errors * rows.std(0) / len(rows) ** 0.5).all())


def test_the_mean_is_the_exact_gauss_newton_diagonal_and_labels_must_be_the_models() -> None:
    net, x, y = softmax_regression()
    p = net(x).softmax(1)
    exact = ((p * (1 - p)).T @ x.square() / len(x)).detach()
    rows = estimates(net, F.cross_entropy, x, y)
    assert within(rows, exact)
    assert not within(rows / len(x), exact)  # the factor B forgotten
    loss = F.cross_entropy(net(x), y)  # the data's labels: the empirical Fisher matrix
    (g,) = torch.autograd.grad(loss, [net.weight])
    assert not within(rows, len(x) * g * g)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_other_likelihoods(likelihood) -> None:
    torch.manual_seed(1)
    net, x = nn.Linear(3, 2, bias=False).double(), torch.randn(5, 3, dtype=torch.float64)
    y = torch.zeros(5, 2, dtype=torch.float64)
    if likelihood == "gaussian":  # mean over 10 terms of squares without 1/2: Hessian 2 x^2 / 10, summed
        loss_fn, curvature = F.mse_loss, torch.full((5, 2), 2.0, dtype=torch.float64)
    else:
        loss_fn, curvature = F.binary_cross_entropy_with_logits, (net(x).sigmoid() * (1 - net(x).sigmoid())).detach()
    assert within(estimates(net, loss_fn, x, y), curvature.T @ x.square() / 10)


def test_terms_are_counted_and_ignored_positions_stay() -> None:
    draws = torch.Generator().manual_seed(0)
    targets = torch.tensor([[1, -100, 2], [0, 3, -100]])
    logits = torch.zeros(2, 3, 4)
    logits[..., 3] = 50.0
    drawn, terms = sample_targets(logits, targets, "categorical", draws)
    assert terms == 4 and drawn.tolist() == [[3, -100, 3], [3, 3, -100]]
    drawn, terms = sample_targets(logits.movedim(-1, 1), targets, "categorical", draws)
    assert terms == 4 and drawn.tolist() == [[3, -100, 3], [3, 3, -100]]
    drawn, terms = sample_targets(logits, torch.zeros(2, 3, dtype=torch.uint8), "categorical", draws)
    assert drawn.dtype is torch.uint8 and terms == 6 and (drawn == 3).all()


def test_your_own_draw() -> None:
    net, x, y = softmax_regression()
    loss, terms = sampled_loss(Closure(net, F.cross_entropy, x, y), likelihood=lambda out, y, g: out.argmax(1))
    assert terms == 8 and loss.item() == F.cross_entropy(net(x), net(x).argmax(1)).item()
    with pytest.raises(ValueError, match=r"^drawn targets must be a tensor, not list$"):
        sampled_loss(Closure(net, F.cross_entropy, x, y), likelihood=lambda out, y, g: [1])


def test_what_can_be_told_from_the_loss() -> None:
    outputs, classes, floats = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.zeros(4, 3)
    assert likelihood_of(F.cross_entropy, outputs, classes) == "categorical"
    assert likelihood_of(nn.MSELoss(), outputs, floats) == likelihood_of(F.mse_loss, outputs, floats) == "gaussian"
    assert likelihood_of(nn.BCEWithLogitsLoss(), outputs, floats) == "bernoulli"
    with pytest.raises(
        ValueError, match=r"^can't tell which likelihood this loss belongs to: say likelihood='categorical'"
    ):
        likelihood_of(F.l1_loss, outputs, floats)


@pytest.mark.parametrize(
    ("outputs", "targets", "likelihood", "message"),
    [
        ((4, 3), (4,), "poisson", "unknown likelihood 'poisson'"),
        ((4, 3), (4,), "gaussian", r"outputs \(4, 3\) and targets \(4,\) must have one shape"),
        ((4, 3, 3), (4, 3), "categorical", "fit with the classes last and second alike"),
        ((4, 3, 5), (4, 2), "categorical", "don't fit together"),
    ],
)
def test_mistakes(outputs, targets, likelihood, message) -> None:
    with pytest.raises(ValueError, match=message):
        sample_targets(torch.zeros(outputs), torch.zeros(targets, dtype=torch.long), likelihood)
