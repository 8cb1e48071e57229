import math

import pytest

from thalweg.claims import exact_inductive_bias as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.claims.engine.few_digits import GRIDS, MODELS, Few, digits, recorded, squared_errors

BITS = {1: 0.0, 2: 0.0, 4: 3.0, 8: 100.0, 16: 120.0}


def verdict(bits=None, counted=0.01, fitted=-0.1, convolutional=300.0, dense=150.0, kernel=120.0):
    measurements = []
    for k in range(4):
        numbers = {f"bits/2/0.2/{d}": b * (1 + 0.01 * k) for d, b in (BITS | (bits or {})).items()}
        numbers |= {f"bits/2/0.02/{d}": 2 * b for d, b in BITS.items()}
        numbers |= {f"off by counting/{d}": counted for d in (4, 8)} | {f"fitted off/{d}": fitted for d in (4, 8)}
        numbers |= {f"supplied/{model}": 50.0 for model in MODELS}
        numbers |= {
            "supplied/convolutional": convolutional + k,
            "supplied/fully connected": dense - k,
            "supplied/kernel regression": kernel + k,
        }
        measurements.append(Measurement(numbers))
    return claim.judge(measurements)


def test_smoke_runs():
    chosen = claim.choose("smoke", report=lambda share, doing="": None)
    assert set(chosen) == set(MODELS) == set(GRIDS)
    found = claim.run("smoke", 0, report=lambda share, doing="": None, chosen=chosen)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    bits = [found.numbers[f"bits/2/0.2/{d}"] for d in claim.JUDGED]
    assert bits[1] < 1e-6 < bits[2] < bits[3]
    assert claim.judge([found]).because


def test_all_that_is_asked_for():
    found = verdict()
    assert found.word == "reproduced" and "0, 0, 3.04, 102, 122" in found.because


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"counted": -0.04}, "partly", "thinner"),
        ({"fitted": -0.25}, "partly", "thinner"),
        ({"kernel": 150.0}, "partly", "no generic member"),
        ({"convolutional": 150.0}, "not reproduced at this scale", "fitting every digit"),
        ({"bits": {16: 99.0}}, "not reproduced at this scale", "nothing is learned"),
        ({"bits": {2: 4.0}}, "not reproduced at this scale", "nothing is learned"),
    ],
)
def test_one_part_failing(changes, word, reason):
    found = verdict(**changes)
    assert found.word == word and reason in found.because


def test_bits_too_few_to_matter_may_fall():
    assert verdict(bits={1: 1e-7}).word == "reproduced"


def test_digits_of_both_pools_differ_and_models_learn():
    data, other = digits("deciding", 0), digits("choosing", 0)
    assert data.X.shape == (100, 1, 14, 14) and not (data.X[:, None] == other.X).flatten(2).all(-1).any()
    assert data.Y.sum(1).abs().max() < 1e-6
    guess = data.Y_test.square().mean().item()
    for model, setting in {"kernel regression": 0.5, "ridge": 1.0, "nearest neighbours": 3.0, "tree": 10.0}.items():
        (error,) = squared_errors(model, setting, data, 0, 0)
        assert 0 < error < guess


def test_networks_train_until_they_fit():
    data = digits("deciding", 0)
    same = type(data)(data.X, data.Y, data.X, data.Y)
    most, bound = 200, 1e-3 * data.Y.square().mean().item()
    errors = squared_errors("fully connected", 3e-3, same, most, 0)
    assert len(errors) == len(recorded(most)) and recorded(most)[-1] == most
    assert bound / 10 < errors[-1] == errors[-2] < bound < errors[3] < errors[0]
    short = squared_errors("fully connected", 3e-3, same, 20, 0)
    assert len(short) == len(recorded(20)) and short[-1] == math.inf > short[-2]


def test_more_pixels_and_wider_networks():
    few = Few(20, 30, 28, 2, fitted=0.5)
    data = digits("choosing", 0, few)
    assert data.X.shape == (20, 1, 28, 28) and len(data.X_test) == 30
    assert squared_errors("convolutional", 3e-3, data, 40, 0, few)[-1] < math.inf


def test_one_failure_is_enough():
    assert claim._mean(iter([1.0, 3.0])) == 2.0
    failing = iter([1.0, math.inf, 3.0])
    assert claim._mean(failing) == math.inf and next(failing) == 3.0


def test_nearest_neighbour_of_itself():
    data = digits("deciding", 0)
    same = type(data)(data.X, data.Y, data.X, data.Y)
    assert squared_errors("nearest neighbours", 1.0, same, 0, 0) == [0.0]
    assert squared_errors("kernel regression", 0.3, same, 0, 0)[0] < 1e-6
