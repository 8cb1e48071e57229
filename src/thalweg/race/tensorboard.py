"""Curves for TensorBoard: one folder a run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from thalweg.race.errors import RaceError
from thalweg.race.records import Run


class TensorBoard:
    """Writes finished runs as TensorBoard event files.

    Args:
        folder: where the runs' folders go.
        name: the race's name.
        metric_name: what the metric is called.

    Raises:
        RaceError: tensorboard is not installed, or the folder can't be written.
    """

    def __init__(self, folder: Path, name: str, metric_name: str) -> None:
        self._make = summary_writer()
        self._folder, self._metric_name = folder / name, metric_name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RaceError(f"can't write TensorBoard's files to {self._folder}: {error.strerror}") from None

    def write(self, run: Run) -> None:
        """Write one run's curves, its settings and how it ended."""
        folder = self._folder / re.sub(r"[^\w.=+-]+", "_", run.recipe) / f"{run.phase}-{run.index}"
        with self._make(log_dir=str(folder)) as writer:
            for step, loss, metric, seconds in zip(run.steps, run.train_loss, run.metric, run.seconds, strict=True):
                writer.add_scalar(self._metric_name, metric, step)
                writer.add_scalar("seconds", seconds, step)
                if not math.isnan(loss):
                    writer.add_scalar("train_loss", loss, step)
            lines = [f"{key}: {value}" for key, value in run.settings.items()]
            writer.add_text("run", "\n\n".join([*lines, f"seed: {run.seed}", f"{run.outcome} {run.message}"]))


def summary_writer() -> Any:
    """torch's ``SummaryWriter``; a :class:`RaceError` where the package tensorboard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RaceError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter
