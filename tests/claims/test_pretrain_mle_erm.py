import pytest
import torch

from thalweg.claims import pretrain_mle_erm as claim
from thalweg.claims.engine.contract import Measurement


def good():
    numbers = {}
    for s in claim.STRENGTHS:
        for n in claim.LABELS:
            exact = 0.5 * 3 / (n - 4)
            numbers |= {f"{s}/{claim.PRE}/{n}": exact, f"{s}/{claim.PRE}/{n}, theory": exact}
            numbers |= {f"{s}/known loadings/{n}": exact, f"{s}/{claim.RIDGE}/{n}": 3 * exact}
            numbers |= {f"{s}/{claim.OWN}/{n}": 2 * exact}
            numbers |= {f"{s}/{claim.PLAIN}/{n}": 9 * exact, f"{s}/{claim.PLAIN}/{n}, theory": 9 * exact}
        for m in claim.UNLABELLED:
            numbers |= {f"{s}/floor/{m}": 1 / m, f"{s}/floor/{m}, theory": 1 / m}
    for d in claim.DIMS:
        numbers |= {f"d/{claim.PRE}/{d}": 0.01, f"d/{claim.PLAIN}/{d}": 0.01 * d}
    return numbers


def verdict(**changes):
    numbers = good()
    for name, factor in changes.items():
        numbers[name] *= factor
    return claim.judge([Measurement(numbers)] * 3)


def test_all_that_is_asked_for():
    found = verdict()
    assert found.word == "reproduced" and found.explained_by is None
    assert "at least 3.00 up to 100 labels (2)" in found.because


@pytest.mark.parametrize(
    ("name", "factor", "word", "reason"),
    [
        (f"strong/{claim.PRE}/25", 1.6, "not reproduced at this scale", "three weights"),
        (f"weak/{claim.PRE}/100", 1.6, "not reproduced at this scale", "three weights"),
        (f"weak/{claim.RIDGE}/200", 0.1, "reproduced", ""),
        (f"weak/{claim.PRE}/800", 4.0, "not reproduced at this scale", "slope"),
        ("strong/floor/8000", 4.0, "not reproduced at this scale", "slope"),
        (f"d/{claim.PRE}/200", 1.6, "partly", "labels' part"),
        (f"d/{claim.PLAIN}/200", 0.4, "partly", "labels' part"),
        (f"strong/{claim.PRE}/100", 1.2, "partly", "first order"),
        ("weak/floor/2000", 0.8, "partly", "first order"),
        ("weak/floor/125", 0.8, "reproduced", ""),
        (f"strong/{claim.PLAIN}/100", 2.0, "reproduced", ""),
        (f"strong/{claim.PLAIN}/200", 1.2, "partly", "first order"),
        ("strong/known loadings/25", 2.0, "not testable at this scale", "known loadings"),
    ],
)
def test_every_word(name, factor, word, reason):
    found = verdict(**{name: factor})
    assert found.word == word and reason in found.because


def test_low_rank_alone_as_the_explanation():
    numbers = good()
    for s in claim.STRENGTHS:
        for n in (25, 50, 100):
            numbers[f"{s}/{claim.OWN}/{n}"] *= 0.7
    assert "labelled inputs" in claim.judge([Measurement(numbers)] * 2).explained_by
    numbers[f"weak/{claim.OWN}/50"] *= 2
    assert claim.judge([Measurement(numbers)] * 2).explained_by is None


def test_smoke_runs_and_is_the_same_again():
    first, again = (claim.run("smoke", 0, report=lambda share, doing="": None) for _ in range(2))
    assert first.numbers == again.numbers
    assert {curve.panel for curve in first.curves} == {panel.key for panel in claim.PANELS}
    for n in claim.LABELS:  # a fit to 3,200 inputs is nearly as good as known loadings
        strong = (first.numbers[f"strong/{arm}/{n}"] for arm in (claim.PRE, "known loadings"))
        assert next(strong) < 1.5 * next(strong) + 1e-3
    assert claim.judge([first] * 2).because


def test_rivals():
    draws = torch.Generator().manual_seed(0)
    X, y = claim._samples(claim._problem(50, 2.0, draws), (2, 80), draws)
    weights = claim._rivals(X, y)
    normal = X[1].mT @ X[1]
    assert torch.allclose(weights[claim.PLAIN][1], torch.linalg.solve(normal, X[1].mT @ y[1]))
    ridge = torch.linalg.solve(normal + claim.PENALTIES[9] * torch.eye(50, dtype=torch.float64), X[1].mT @ y[1])
    assert torch.allclose(weights[claim.RIDGE][1, 9], ridge)
    top = torch.linalg.eigh(normal).eigenvectors[:, -3:]
    own = claim._least_squares(X[1], y[1], top)
    assert torch.allclose(weights[claim.OWN][1], own)
    assert weights[claim.PLAIN].shape == (2, 50)
    few = claim._rivals(X[:, :20], y[:, :20])[claim.PLAIN]  # the shortest of those that fit
    assert torch.allclose(few, (torch.linalg.pinv(X[:, :20]) @ y[:, :20].unsqueeze(-1)).squeeze(-1))


def test_logistic_regression_is_where_its_slope_vanishes():
    draws = torch.Generator().manual_seed(0)
    X, y = torch.randn(30, 4, generator=draws, dtype=torch.float64), torch.arange(30).double() % 2
    W = claim._logistic(X, y, (0.1, 10.0)).requires_grad_()
    whole = torch.cat([X, torch.ones(30, 1, dtype=torch.float64)], 1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(W @ whole.mT, y.expand(2, -1), reduction="sum")
    penalty = (torch.tensor([[0.1], [10.0]]) * W.square()).sum() / 2
    (slope,) = torch.autograd.grad(loss + penalty, W)
    assert slope.abs().max() < 1e-8
