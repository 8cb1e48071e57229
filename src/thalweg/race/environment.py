"""Versions and machine, for the record."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from thalweg.race.execute import cpu_count
from thalweg.race.job import Conditions


def environment(conditions: Conditions, workers: int, threads: int) -> dict[str, Any]:
    """What a result depends on besides the plan; no names of people, hosts or folders."""
    return {
        "thalweg": _version("thalweg"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": _version("optuna"),
        "lightning_fabric": _version("lightning-fabric"),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cpu_count(),
        "accelerator": _accelerator(conditions),
        "workers": workers,
        "threads": threads,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerator(conditions: Conditions) -> str:
    if conditions.device in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    if conditions.device in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
