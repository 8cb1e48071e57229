import math

import pytest
import torch

from thalweg.claims import dsd_locality_weight_sharing as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.nn import PatchClassifier
from thalweg.tasks.dynamic_signal import dynamic_signal

SIZE = claim.SIZES["cpu"]
CELLS = [(k, d) for k in (8, 16) for d in (16, 32, 64)]


def errors(sharing, noise, k, d, need, floor=0.0):
    """An error of 3% at ``need`` samples, falling as their square, but never below ``floor``."""
    return {
        claim._key(sharing, noise, k, d, n): max(floor, min(0.5, 0.03 * (need / n) ** 2)) for n in SIZE.grids[sharing]
    }


def measured(conv=None, local=None, floor=0.04, easy=(2, 60, 200), full=600):
    conv = conv or (lambda k, d: 64 / k * d / 16)
    local = local or (lambda k, d: 8 * d)
    numbers = {}
    for k, d in CELLS:
        numbers |= errors("conv", claim.HARD, k, d, conv(k, d)) | errors("local", claim.HARD, k, d, local(k, d))
        numbers |= errors("full", claim.HARD, k, d, full, floor)
    for sharing, need in zip(claim.NAMES, easy, strict=True):
        numbers |= errors(sharing, claim.EASY, *claim.EASIER, need)
    return claim.judge([Measurement(numbers)] * 2)


def test_all_that_is_asked_for():
    verdict = measured()
    assert verdict.word == "reproduced"
    assert "6 of 6 cells, LCN < FCN at 10% in 6" in verdict.because and "2.0 times (1.5)" in verdict.because


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"conv": lambda k, d: 4}, "partly", "sharing pays too little"),
        ({"conv": lambda k, d: 1}, "partly", "too small to tell"),
        ({"local": lambda k, d: 128}, "partly", "grows more slowly"),
        ({"easy": (2, 60, 50)}, "partly", "lower noise"),
        ({"easy": (2, 60, 5000)}, "partly", "lower noise"),
        ({"full": 300}, "partly", "linear rule suffices"),
        ({"full": 100, "floor": 0.0}, "not reproduced at this scale", "isn't theory's"),
        ({"local": lambda k, d: 2}, "not reproduced at this scale", "isn't theory's"),
        ({"conv": lambda k, d: 500}, "not testable at this scale", "don't get to 3%"),
    ],
)
def test_every_other_word(changes, word, reason):
    verdict = measured(**changes)
    assert verdict.word == word and reason in verdict.because


def test_says_where_its_ratios_come_from():
    numbers = {}
    for k, d in CELLS:
        numbers |= errors("conv", claim.HARD, k, d, 4 if d > 16 else 1) | errors("local", claim.HARD, k, d, 8 * d)
        numbers |= errors("full", claim.HARD, k, d, 600, 0.04)
    for sharing, need in zip(claim.NAMES, (2, 60, 200), strict=True):
        numbers |= errors(sharing, claim.EASY, *claim.EASIER, need)
        adam = errors(sharing, claim.HARD, *claim.SHOWN, {"conv": 8, "local": 64}.get(sharing, 500))
        numbers |= {f"Adam/{name}": error for name, error in adam.items()}
    because = claim.judge([Measurement(numbers)] * 2).because
    assert "at d = 32, 64, where a CNN needs 4.0, 4.0, 4.0, 4.0 samples" in because
    assert "descent gives 64 and Adam 8; 4 of 12 needs" in because


def test_an_lcn_that_never_arrives_is_no_order():
    assert measured(local=lambda k, d: 5000).word == "not reproduced at this scale"


def test_smoke_runs_and_is_the_same_again():
    chosen = {"lr": {"conv": 1.0, "local": 3.0, "full": 3.0}}
    found = claim.run("smoke", 0, report=lambda share, doing="": None, chosen=chosen)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    size = claim.SIZES["smoke"]
    again, bayes = claim._errors(size, size.grids["conv"], "conv", 8, 16, claim.HARD, 0, claim._descent(1.0))
    assert [found.numbers[claim._key("conv", claim.HARD, 8, 16, n)] for n in size.grids["conv"]] == again
    assert found.numbers["Bayes/0.57/8/16"] == bayes < again[-1]
    assert claim.judge([found]).because


def test_batched_training_is_that_of_the_module():
    """One problem, one end of the threshold, against PatchClassifier in a plain loop."""
    task = dynamic_signal(40, 4, 5, 0.2, problems=(2,), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.randn(2, 1, 4, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = claim._train(task.x, task.y, start, "full", 30, claim._descent(1.0))
    net = PatchClassifier(4, 5, "full", dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(start[1, 0])
    descent = torch.optim.SGD(net.parameters(), lr=1.0)
    for step in range(30):
        net.threshold = 0.4 * min(1.0, max(0.0, 3 * step / 30 - 1))
        descent.zero_grad()
        torch.nn.functional.softplus(-task.y[1] * net(task.x[1])).mean().backward()
        descent.step()
    assert torch.allclose(weight[1, 2], net.weight, rtol=1e-5, atol=1e-6)


def test_silence_is_half_an_error():
    images = dynamic_signal(10, 4, 5, 0.0, problems=(1,))
    nothing = claim._mistakes(torch.zeros(1, 3, 5), images, "conv")
    assert nothing.tolist() == [[0.5, 0.5, 0.5]]
    oracle = claim._mistakes(images.signal.unsqueeze(1).repeat(1, 3, 1), images, "conv")
    assert oracle.tolist() == [[0.0, 0.0, 0.0]]
    assert math.isinf(claim._need({"conv/0.57/8/16/4": 0.5}, "conv", 0.57, 8, 16, 0.03))
