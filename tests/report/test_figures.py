import sys
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from thalweg.race.records import RaceResult
from thalweg.report.figures import all_figures, memory, metric_curves, ratio_forest, tuning_scatter, write_figures
from thalweg.report.trajectories import metric_scales


def texts(plot: object) -> list[str]:
    return [text.get_text() for text in plot.findobj(matplotlib.text.Text)]  # type: ignore[attr-defined]


def test_plots_are_drawn_whatever_happened(races: dict[str, RaceResult]) -> None:
    for name in ("one recipe", "all killed", "strange values"):
        plots = all_figures(races[name])
        keys = [plot.key for plot in plots]
        assert len(set(keys)) == len(keys) >= 7, name
        assert all(plot.description for plot in plots), name


def test_curves_show_each_recipe_and_the_target(race: RaceResult) -> None:
    plot = metric_curves(race, "steps")
    lines = [
        line for line in plot.axes[0].lines if (line.get_gid() or "").startswith("r") and len(line.get_xdata()) > 5
    ]
    assert {line.get_gid() for line in lines} == {f"r{i}" for i in range(len(race.recipes))}
    assert "target 0.93" in texts(plot)
    values = {point.slot for point in plot.points}
    assert values == set(range(len(race.recipes)))


def test_a_scale_that_can_not_show_the_values_is_refused(race: RaceResult, races: dict[str, RaceResult]) -> None:
    assert metric_scales(race) == ["linear", "logit"]
    assert metric_scales(races["error goes down"]) == ["linear", "log"]
    with pytest.raises(ValueError, match="scale 'log' can't show these values; use one of linear, logit"):
        metric_curves(race, "steps", "log")


def test_an_explosion_does_not_flatten_the_other_curves(races: dict[str, RaceResult]) -> None:
    low, high = metric_curves(races["strange values"]).axes[0].get_ylim()
    assert low > -1 and high < 2


def test_the_forest_puts_the_baseline_at_one(race: RaceResult) -> None:
    steps, seconds = ratio_forest(race, "steps"), ratio_forest(race, "seconds")
    assert steps.axes[0].get_xlim() == seconds.axes[0].get_xlim()
    ratios = {p.slot: p.x for p in steps.points}
    assert len(ratios) == len(race.recipes) - 1
    assert sorted(ratios.values()) == sorted(row.steps_ratio for row in race.recipes if row.steps_ratio is not None)


def test_infinite_intervals_end_in_an_arrow(races: dict[str, RaceResult]) -> None:
    markers = {line.get_marker() for line in ratio_forest(races["strange values"]).axes[0].lines}
    assert ">" in markers and "above 0.50" in " ".join(texts(ratio_forest(races["strange values"])))


def test_memory_shows_peak_and_state(race: RaceResult) -> None:
    joined = " ".join(texts(memory(race)))
    assert "3.22 MiB" in joined and "51.2 MiB" in joined and "optimizer state" in joined


def test_tuning_marks_the_chosen_setting_and_edges(race: RaceResult, races: dict[str, RaceResult]) -> None:
    plot = tuning_scatter(race, "muon")
    assert plot is not None and "lr ▸ edge" in texts(plot)
    rings = [line for axes in plot.axes for line in axes.lines if line.get_markersize() == 11]
    assert len(rings) == 3
    crosses = [line for line in plot.axes[0].lines if line.get_marker() == "x"]
    assert len(crosses) == 1 and len(crosses[0].get_xdata()) == 4  # two out of memory, two diverged
    assert tuning_scatter(races["no tuning"], "lion") is None
    with pytest.raises(KeyError):
        tuning_scatter(race, "nobody")


def test_long_curves_are_thinned(races: dict[str, RaceResult]) -> None:
    assert len(races["many evaluations"].runs[-1].steps) > 9000
    longest = max(len(line.get_xdata()) for line in metric_curves(races["many evaluations"]).axes[0].lines)
    assert longest <= 90


def test_png_files(race: RaceResult, tmp_path: Path) -> None:
    paths = write_figures(race, tmp_path / "new" / "folder", dpi=60)
    assert len(paths) == len(all_figures(race)) and {p.suffix for p in paths} == {".png"}
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())  # no half-written file is left
    for path in paths:
        with Image.open(path) as image:
            assert image.width == 368 and image.height > 60
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10, path


def test_pyplot_and_its_settings_stay_untouched(race: RaceResult) -> None:
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    all_figures(race)
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded
