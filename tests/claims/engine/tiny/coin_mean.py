"""Means of coins come near one half.

A claim for tests: it draws from torch's global generator, chooses a setting, and can be told to wait at a seed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Scale, Verdict

RULE = "Reproduced: every mean is within 0.2 of one half."
SCALES = {"smoke": Scale((0, 1, 2), 0.1), "cpu": Scale((0, 1, 2, 3), 1), "gpu": Scale((0,), 1)}
PANELS = (Panel("mean", "Means", "coins", "mean"),)


def choose(scale, *, report):
    _note("choose")
    return {"coins": 100 + int(torch.randint(50, ()))}


def run(scale, seed, *, report, chosen):
    _note(f"seed {seed}")
    report(0.5, "tossing")
    tosses = (torch.rand(chosen["coins"]) < 0.5).double()
    means = (tosses.cumsum(0) / torch.arange(1, len(tosses) + 1)).tolist()
    curve = Curve("mean", "coins", tuple(range(1, len(means) + 1)), tuple(means))
    return Measurement({"mean": means[-1], "longest wait": float("inf") if seed else 1 / 3}, (curve,))


def judge(measurements):
    worst = max(abs(m.numbers["mean"] - 0.5) for m in measurements)
    return Verdict("reproduced" if worst < 0.2 else "partly", f"off by {worst!r} at worst (0.2)")


def _note(part):
    """Say in a file what runs; wait there for ever if asked to."""
    folder = os.environ.get("COIN_NOTES")
    if folder:
        with (Path(folder) / "ran").open("a") as file:
            file.write(f"{part}\n")
        if os.environ.get("COIN_WAIT") == part:
            (Path(folder) / "waiting").touch()
            time.sleep(120)
