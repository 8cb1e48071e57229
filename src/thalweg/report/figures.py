"""Every plot of a race, and all of them as image files."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from matplotlib.transforms import Bbox

from thalweg.race.records import RaceResult
from thalweg.report.canvas import Plot, drawing
from thalweg.report.intervals import final_metric, memory, ratio_forest, step_time
from thalweg.report.search import tuning_scatter
from thalweg.report.trajectories import metric_curves, metric_scales, train_loss_curves, train_loss_scales

__all__ = [
    "all_figures",
    "final_metric",
    "memory",
    "metric_curves",
    "ratio_forest",
    "step_time",
    "train_loss_curves",
    "tuning_scatter",
    "write_figures",
    "write_image",
]


def all_figures(result: RaceResult) -> list[Plot]:
    """Every plot that the report shows, one a scale where there are several."""
    curves = [metric_curves(result, against, s) for against in ("steps", "seconds") for s in metric_scales(result)]
    curves += [train_loss_curves(result, scale) for scale in train_loss_scales(result)]
    rows = [ratio_forest(result, "steps"), ratio_forest(result, "seconds"), final_metric(result)]
    rows += [step_time(result), memory(result)]
    tunings = [tuning_scatter(result, row.name) for row in result.recipes]
    return [*curves, *rows, *(plot for plot in tunings if plot is not None)]


def write_figures(result: RaceResult, folder: str | os.PathLike[str], dpi: int = 160) -> list[Path]:
    """Write every plot into ``folder`` as a PNG file, with title and legend; the folder is made if it is missing.

    Args:
        result: the race.
        folder: where the files go; files of the same names are replaced, each in one step.
        dpi: pixels an inch; a plot is about 5.8 inches wide.

    Returns:
        The files, in the order of the report.

    Raises:
        OSError: the folder can't be written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    plots = all_figures(result)
    return [write_image(plot, target / (re.sub(r"[^a-z0-9-]", "-", plot.key) + ".png"), dpi) for plot in plots]


def write_image(plot: Plot, path: Path, dpi: int = 160) -> Path:
    """Write one plot as a PNG file, in one step, and give its path.

    Raises:
        OSError: the file can't be written.
    """
    part = path.with_suffix(".png.part")
    try:
        with drawing(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name may hold any script
            plot.savefig(part, format="png", dpi=dpi, facecolor="white", bbox_inches=_with_margin(plot))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _with_margin(plot: Plot) -> Bbox:
    width, height = plot.get_size_inches()
    return Bbox.from_extents(-0.15, -0.1, width + 0.15, height)
