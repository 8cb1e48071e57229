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
    """What a race's result depends on besides the plan; no names of people, hosts or folders."""
    return {
        **versions("optuna", "lightning-fabric"),
        **machine(conditions.device),
        "workers": workers,
        "threads": threads,
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of thalweg, Python, torch and ``packages``, by their names in Python."""
    found = {"thalweg": _version("thalweg"), "python": platform.python_version(), "torch": torch.__version__}
    return found | {package.replace("-", "_"): _version(package) for package in packages}


def machine(device: str = "auto") -> dict[str, Any]:
    """The machine: system, processor, usable cores, and the accelerator if ``device`` allows one."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cpu_count(),
        "accelerator": _accelerator(device),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerator(device: str) -> str:
    if device in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    if device in ("auto", "mps") and torch.backends.mps.is_available():
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
