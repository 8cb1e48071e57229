"""The peaks that WTACRSLinear's docstring gives are the stored ones, and the benchmark finds them again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from thalweg.nn import WTACRSLinear

PATH = Path(__file__).parents[1] / "benchmarks" / "wta_crs_memory.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wta_crs_memory", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wta_crs_memory"] = module
    spec.loader.exec_module(module)
    return module


def test_the_docstring_has_what_is_stored(benchmark: ModuleType) -> None:
    peaks = json.loads(benchmark.RESULT.read_text())["cpu"]["peak_bytes"]
    text = " ".join((WTACRSLinear.__doc__ or "").split())
    layers, encoder = (
        [f"{peaks[name][str(ratio)] / 1e6:.1f}" for ratio in benchmark.RATIOS] for name in benchmark.MODELS
    )
    assert "take {} MB, {} at 0.3 and {} at 0.1;".format(*layers) in text
    assert "converted {} MB, {} and {}.".format(*encoder) in text


def test_the_stored_peaks_are_found_again(benchmark: ModuleType) -> None:
    name = next(iter(benchmark.MODELS))
    stored = json.loads(benchmark.RESULT.read_text())["cpu"]["peak_bytes"][name]
    for ratio in benchmark.RATIOS:
        assert benchmark.step_bytes(name, ratio) == pytest.approx(stored[str(ratio)], rel=0.05)
