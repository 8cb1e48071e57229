import dataclasses
import math

import numpy as np
import pytest

from thalweg.race.records import Run
from thalweg.report.curves import curve, downsample


def run(index: int, metric: list[float], outcome: str = "finished", every: int = 10) -> Run:
    steps = [every * i for i in range(len(metric))]
    loss = [math.nan, *metric[1:]]
    return Run("a", "fresh", index, index, {}, outcome, "", steps, [s / 10 for s in steps], loss, metric)  # type: ignore[arg-type]


def test_median_and_band_over_runs() -> None:
    found = curve([run(0, [3, 2, 1]), run(1, [3, 1, 0]), run(2, [3, 4, 5])], "metric", "min")
    assert found is not None
    assert found.median.tolist() == [3, 2, 1] and found.low.tolist() == [3, 1, 0] and found.high.tolist() == [3, 4, 5]
    assert found.steps.tolist() == [0, 10, 20] and found.seconds.tolist() == [0, 1, 2] and not found.lost


@pytest.mark.parametrize("goal", ["min", "max"])
def test_a_failed_run_counts_as_the_worst_from_its_end_on(goal: str) -> None:
    sign = 1 if goal == "min" else -1
    runs = [run(i, [sign * v for v in (3, 2, 1)]) for i in range(2)] + [run(2, [sign * 3, sign * 1.0], "diverged")]
    found = curve(runs, "metric", goal)  # type: ignore[arg-type]
    assert found is not None and found.median.tolist() == [sign * 3, sign * 2, sign * 1] and not found.lost
    assert found.crosses == ((10.0, 1.0, sign * 1.0),)
    lost = curve([runs[0], runs[2], run(3, [sign * 3.0], "raised")], "metric", goal)  # type: ignore[arg-type]
    assert lost is not None and lost.lost and lost.steps.tolist() == [0, 10]
    assert np.isfinite(lost.median).all() and np.isfinite(lost.low).all()


def test_the_training_loss_starts_after_the_first_step() -> None:
    found = curve([run(0, [3, 2, 1])], "train_loss", "min")
    assert found is not None and found.steps.tolist() == [10, 20]


def test_nothing_measured_gives_no_curve() -> None:
    assert curve([], "metric", "min") is None
    assert curve([run(0, [], "raised")], "metric", "min") is None
    assert curve([run(0, [math.nan, math.inf])], "metric", "min") is None


def test_evaluations_of_less_than_half_of_the_runs_are_left_out() -> None:
    found = curve([run(0, [3, 2, 1]), run(1, [3, 2]), run(2, [3, 2])], "metric", "min")
    assert found is not None and found.steps.tolist() == [0, 10]


def test_downsampling_keeps_ends_and_the_width_of_the_band() -> None:
    values = np.sin(np.arange(5000) / 300)
    full = curve([run(0, (values + 1).tolist()), run(1, (values - 1).tolist())], "metric", "max")
    assert full is not None
    short = downsample(full, 60)
    assert len(short.steps) <= 60 and (np.diff(short.steps) > 0).all()
    assert (short.steps[0], short.steps[-1]) == (full.steps[0], full.steps[-1])
    assert (short.median[0], short.median[-1]) == (full.median[0], full.median[-1])
    assert short.low.min() == full.low.min() and short.high.max() == full.high.max()
    assert downsample(short, 60) is short


def test_many_runs_have_a_band_between_quartiles() -> None:
    values = np.random.default_rng(0).normal(size=(12, 4))
    found = curve([run(i, row.tolist()) for i, row in enumerate(values)], "metric", "min")
    assert found is not None
    np.testing.assert_allclose(found.median, np.median(values, axis=0))
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.25, 0.75], axis=0))


def timed(index: int, pace: float, budget: float = 2.0, outcome: str = "finished") -> Run:
    """A run under a budget in seconds: steps of ``pace`` seconds, evaluated 25 times, each after a step more or less."""
    marks = np.linspace(0, budget, 26)
    steps = sorted({int(np.ceil(mark / pace)) for mark in marks})
    metric = [2.0 ** (-step / 50) for step in steps]
    seconds = [pace * step for step in steps]
    return Run("a", "fresh", index, index, {}, outcome, "", steps, seconds, [math.nan, *metric[1:]], metric)  # type: ignore[arg-type]


def test_runs_under_a_time_limit_are_interpolated_to_where_half_of_them_end() -> None:
    runs = [timed(i, pace) for i, pace in enumerate((0.0101, 0.0117, 0.0131, 0.0149, 0.0213))]
    for against in ("steps", "seconds"):
        found = curve(runs, "metric", "min", against)  # type: ignore[arg-type]
        assert found is not None and len(found.steps) == 26
        assert (np.diff(found.steps) >= 0).all() and (np.diff(found.seconds) >= 0).all()
    over_steps, over_seconds = (curve(runs, "metric", "min", a) for a in ("steps", "seconds"))  # type: ignore[arg-type]
    assert over_steps is not None and over_seconds is not None
    # Three of the five still run at the end of the third; all of them use their seconds.
    assert over_steps.steps[-1] == runs[2].steps[-1] and over_seconds.seconds[-1] >= 2.0
    np.testing.assert_allclose(over_steps.median, 2.0 ** (-over_steps.steps / 50), rtol=0.02)
    np.testing.assert_allclose(over_seconds.median, 2.0 ** (-over_seconds.seconds / 0.0131 / 50), rtol=0.03)


def test_a_failed_run_under_a_time_limit_counts_as_the_worst() -> None:
    broken = dataclasses.replace(timed(2, 0.0131), outcome="diverged")
    for key in ("steps", "seconds", "train_loss", "metric"):
        setattr(broken, key, getattr(broken, key)[:5])
    runs = [timed(0, 0.0101), timed(1, 0.0117), broken]
    found = curve(runs, "metric", "min", "seconds")
    assert found is not None and found.crosses == ((broken.steps[-1], broken.seconds[-1], broken.metric[-1]),)
    assert not found.lost and found.seconds[-1] >= 2.0
    late = found.seconds > broken.seconds[-1]
    np.testing.assert_allclose(found.median[late], 2.0 ** (-found.seconds[late] / 0.0117 / 50), rtol=0.03)


def test_seconds_never_run_backwards_where_a_slow_run_ends() -> None:
    slow = dataclasses.replace(run(1, [3, 2]), seconds=[0.0, 9.0], outcome="diverged")
    found = curve([run(0, [3, 2, 1]), slow, run(2, [3, 2, 1])], "metric", "min")
    assert found is not None and (np.diff(found.seconds) >= 0).all()
