import math

import pytest

from thalweg.report.numbers import duration, interval, number, ratio, size, steps, tick


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "−∞"), (0.0, "0"), (0.01234, "0.0123"), (12.0, "12.0"),
     (12345.0, "12,345"), (1e-7, "1e-7"), (2.5e9, "2.5e9"), (-3.0, "−3.00")],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_units() -> None:
    assert [duration(s) for s in (2e-5, 0.5, 61.0, 7300.0, None)] == ["20.0 µs", "500 ms", "61.0 s", "2 h 02 min", "–"]
    assert [size(b) for b in (12, 5 * 2**20, 2**41, None, math.inf)] == ["12 B", "5.00 MiB", "2.00 TiB", "–", "∞"]
    assert [steps(s) for s in (1234.0, None, math.inf)] == ["1,234", "–", "∞"]
    assert [tick(v) for v in (0, 0.5, 250, 12_000, 3e6, 1e-4, -0.25)] == [
        "0",
        "0.5",
        "250",
        "12k",
        "3M",
        "1e-4",
        "−0.25",
    ]


def test_intervals_may_be_open_or_missing() -> None:
    assert interval((0.551, 0.708)) == "0.55 to 0.71"
    assert interval((0.5, math.inf)) == interval((0.5, None)) == "above 0.50"
    assert interval((math.nan, 2.0)) == "below 2.00"
    assert interval(None) == interval((None, None)) == ""
    assert (ratio(0.623), ratio(0.012), ratio(250.0), ratio(None)) == ("0.62", "0.012", "250", "–")
