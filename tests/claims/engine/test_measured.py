from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Verdict
from thalweg.claims.engine.errors import ClaimError
from thalweg.claims.engine.measured import good_measurement, good_verdict

PANELS = (Panel("p", "P", "x", "y"),)


def test_numbers_become_floats() -> None:
    found = good_measurement(Measurement({"a": 1, "b": np.float32(0.5), "c": True, "d": math.inf}), PANELS)
    assert found.numbers == {"a": 1.0, "b": 0.5, "c": 1.0, "d": math.inf}
    assert {type(number) for number in found.numbers.values()} == {float}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must give a Measurement whose numbers are plain numbers, not NoneType"),
        (Measurement({}), "must give a Measurement"),
        (Measurement({"a": 1.0, "b": math.nan, "c": math.nan}), "numbers are NaN: 'b', 'c'"),
        (Measurement({"a": torch.ones(())}), "these aren't: 'a'"),  # type: ignore[dict-item]
        (Measurement({"a": "1"}), "these aren't: 'a'"),  # type: ignore[dict-item]
        (Measurement({"a": 1.0}, (Curve("q", "net", (1,), (1,)),)), "curve 'net' is for panel 'q', but PANELS has 'p'"),
        (Measurement({"a": 1.0}, (Curve("p", "net", (1, 2), (1,)),)), "has 2 x and 1 y"),
    ],
)
def test_what_is_no_measurement(value: Any, message: str) -> None:
    with pytest.raises(ClaimError, match=message):
        good_measurement(value, PANELS)


@pytest.mark.parametrize("value", [None, "reproduced", Verdict("good", "1 < 2"), Verdict("partly", " ")])  # type: ignore[arg-type]
def test_what_is_no_verdict(value: Any) -> None:
    with pytest.raises(ClaimError, match=r"judge\(\) must give a Verdict with a reason"):
        good_verdict(value)
