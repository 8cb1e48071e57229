"""The claim of sam-mtl: its smallest run, its rules for two tasks, and every way its verdict can turn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from thalweg.claims import sam_mtl as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.claims.engine.two_digits import Net, accuracies, pictures, sharpness, task_losses


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = claim.choose("smoke", report=quiet)
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert all(isinstance(value, float) and not math.isnan(value) for value in found.numbers.values())
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert len(chosen) == 11 and claim.judge([found]).word != "reproduced"  # one seed shows no difference


def test_seeds_that_decide_chose_nothing() -> None:
    assert claim.TUNING_SEED not in {seed for scale in claim.SCALES.values() for seed in scale.seeds}


@pytest.mark.parametrize("seed", range(3))
def test_ways_to_combine_are_torchjds(seed: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    g[1] -= (1 + seed) * g[0]  # a conflict
    torch.testing.assert_close(claim.shortest(g), aggregation.MGDA(max_iters=2000)(g), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(claim.without_conflicts(g), aggregation.PCGrad()(g), rtol=1e-12, atol=1e-12)


def test_conflict_averse_is_the_best_of_all_weights() -> None:
    g = torch.tensor([[3.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    mean = g.mean(0)
    weights = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    points = weights * g[0] + (1 - weights) * g[1]
    worst = points[(points @ mean + 0.4 * mean.norm() * points.norm(dim=1)).argmin()]
    expected = (mean + 0.4 * mean.norm() * worst / worst.norm()) / 1.16
    torch.testing.assert_close(claim.conflict_averse(g), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(claim.conflict_averse(g[[0, 0]]), g[0] * 1.4 / 1.16)


@pytest.mark.parametrize("rule", claim.COMBINE)
def test_zero_gradients_stay_zero(rule: str) -> None:
    assert not claim.COMBINE[rule](torch.zeros(2, 5)).any()


@pytest.mark.parametrize("rule", claim.COMBINE)
def test_sam_without_a_radius_is_plain(rule: str) -> None:
    size = claim.Size(60, 10, 1, (), ())
    data = pictures("basic", size.counts, 3)["train"]
    plain = list(claim._epochs(rule, "plain", {"lr": 0.01}, size, data, 3))[1]
    ends = [plain.heads[1].weight.clone()]
    *_, sam = claim._epochs(rule, "direct", {"lr": 0.01, "rho": 0.0}, claim.Size(60, 10, 2, (), ()), data, 3)
    torch.testing.assert_close([sam.heads[1].weight], ends, rtol=1e-4, atol=1e-5)


def test_pictures_and_what_is_measured() -> None:
    counts = {"train": 300, "validation": 20, "test": 20}
    basic, noisy, few = (pictures(v, counts, 1)["train"] for v in claim.VARIANTS)
    assert basic.x.shape == (300, 324) and torch.equal(basic.x, noisy.x)
    assert (
        torch.equal(basic.labels[0], noisy.labels[0])
        and 0.15 < (basic.labels[1] != noisy.labels[1]).float().mean() < 0.4
    )
    assert few.known[1].all() and 0.04 < few.known[0].float().mean() < 0.2
    net = Net(0)
    before = [p.clone() for p in net.parameters()]
    assert sharpness(net, basic) > 0
    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=1e-6)
    wrong = few.labels.clone()
    wrong[0, ~few.known[0]] = 0  # labels that aren't known don't count
    rows = torch.arange(300)
    other = type(few)(few.x, wrong, few.known)
    assert [x.item() for x in task_losses(net, few, rows)] == [x.item() for x in task_losses(net, other, rows)]
    assert all(0 <= share <= 1 for share in accuracies(net, basic))


def made(place: int = 0, **changes: float) -> Measurement:
    """A measurement in which both parts hold, and neither control explains it."""
    numbers = {}
    for variant, rule in itertools.product(claim.VARIANTS, claim.COMBINE):
        key, noise = f"{variant}, {rule}", 0.001 * place
        numbers |= {
            f"{key}, plain: accuracy": 0.8,
            f"{key}, plain: stopped early": 0.8,
            f"{key}, direct: accuracy": 0.81,
        }
        numbers[f"{key}, decomposed: accuracy"] = (0.81 if rule == "mean" else 0.83) + noise
    numbers["basic, mean, plain: training accuracy"] = 0.9
    assert set(changes) <= set(numbers)
    return Measurement(numbers | changes)


def judged(**changes: float):
    return claim.judge([made(place, **changes) for place in range(4)])


def every(pattern: str, value: float) -> dict[str, float]:
    return {key: value for key in made().numbers if pattern in key}


def test_reproduced_and_what_may_explain_it() -> None:
    verdict = judged()
    assert verdict.word == "reproduced" and verdict.explained_by is None
    assert "for 4 of 4 rules" in verdict.because and "overfits by 10.0" in verdict.because
    assert judged(**every("stopped early", 0.84)).explained_by == "early stopping of plain training"
    assert judged(**every("mean, decomposed", 0.85)).explained_by == "ordinary SAM on the mean gradient"


def test_partly() -> None:
    verdict = judged(**every("direct", 0.84))
    assert verdict.word == "partly" and "rarely conflict" in verdict.because
    basic_only = {key: 0.8 for key in every("mean, plain: accuracy", 0) if not key.startswith("basic")}
    assert judged(**basic_only).word == "reproduced"  # three rules are enough


def test_not_reproduced_and_not_testable() -> None:
    verdict = judged(**every("plain: accuracy", 0.84), **{"basic, mean, plain: training accuracy": 0.95})
    assert verdict.word == "not reproduced at this scale" and "0 of 4" in verdict.because
    one_variant = {k: 0.84 for k in every("plain: accuracy", 0) if not k.startswith("noisy")}
    assert judged(**one_variant).word == "not reproduced at this scale"
    assert judged(**{"basic, mean, plain: training accuracy": 0.81}).word == "not testable at this scale"
