"""suggest_lr: what it takes from the shipped ratios, and when it refuses."""

from __future__ import annotations

from importlib import resources

import pytest

from thalweg.optim import learning_rates, list_optimizers, suggest_lr

GOOD = {"ratio": 0.25, "spread": 1.7, "range": [1e-3, 2e-2], "supported": True, "why": ""}
BAD = {**GOOD, "supported": False, "why": "5 of 9 suggestions are further than a factor of 3 from the best"}


@pytest.fixture
def ratios(monkeypatch):
    pairs = {"adamw": {"lion": GOOD, "lars": BAD}, "lion": {"adamw": {**GOOD, "ratio": 4.0, "range": [1e-4, 5e-3]}}}
    monkeypatch.setattr(learning_rates, "measured_ratios", lambda: {"pairs": pairs})


@pytest.mark.usefixtures("ratios")
def test_the_ratio_is_applied_both_ways():
    assert suggest_lr(from_="adamw", to="lion", lr=4e-3) == 1e-3
    assert suggest_lr("lion", "adamw", lr=1e-3) == 4e-3
    assert suggest_lr("lars", "lars", lr=0.123456) == 0.123456


@pytest.mark.usefixtures("ratios")
def test_beyond_the_measured_range_it_must_be_asked_for():
    with pytest.raises(ValueError, match=r"lr=0.0001 lies outside of 0.001 to 0.02.*extrapolate=True"):
        suggest_lr("adamw", "lion", lr=1e-4)
    assert suggest_lr("adamw", "lion", lr=1e-4, extrapolate=True) == 2.5e-5


@pytest.mark.usefixtures("ratios")
@pytest.mark.parametrize(
    ("from_", "to", "lr", "words"),
    [
        (
            "adamw",
            "lars",
            1e-3,
            "supports no learning rate of lars from that of adamw .5 of 9.*thalweg race adamw lars",
        ),
        ("lion", "lars", 1e-3, "wasn't measured, only pairs with adamw are"),
        ("adamw", "loin", 1e-3, "did you mean 'lion'"),
        ("adamw", "lion", 0.0, "lr must be a number > 0, not 0.0"),
        ("adamw", "lion", float("nan"), "lr must be a number > 0, not nan"),
    ],
)
def test_it_refuses_in_one_line(from_, to, lr, words):
    with pytest.raises(ValueError, match=words) as error:
        suggest_lr(from_, to, lr=lr)
    assert "\n" not in str(error.value)


def test_what_ships_is_used_as_it_is_or_is_said_to_be_missing():
    if not resources.files("thalweg.optim").joinpath("learning_rates.json").is_file():
        with pytest.raises(ValueError, match="no ratios have been measured yet"):
            suggest_lr("adamw", "lion", lr=1e-2)
        return
    pairs = learning_rates.measured_ratios()["pairs"]
    assert set(pairs) <= set(list_optimizers()) and set(pairs["adamw"]) == set(pairs) - {"adamw"}
    for from_, targets in pairs.items():
        for to, found in targets.items():
            middle = (found["range"][0] * found["range"][1]) ** 0.5
            if found["supported"]:
                assert suggest_lr(from_, to, lr=middle) == pytest.approx(middle * found["ratio"], rel=0.01)
            else:
                with pytest.raises(ValueError, match="supports no learning rate"):
                    suggest_lr(from_, to, lr=middle)
