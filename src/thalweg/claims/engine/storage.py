"""Results as files: ``results/SLUG/SCALE.json`` and the figure beside it, ``SCALE.svg``.

JSON has no infinity and no NaN: such floats are stored as the texts "inf", "-inf" and "nan". Numbers that decide are kept
to the last digit, curves, which are only shown, to six. The file ends with a checksum of its contents, which tells an edit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thalweg.claims.engine.contract import Curve, Measurement, Result, Verdict
from thalweg.claims.engine.errors import ClaimError

DIGITS = 6
"""Significant digits of curves."""

_SUM = "contents_sha256"
_WIDE = 120


def result_path(results: Path, slug: str, scale: str) -> Path:
    """Where the result of one claim and scale is."""
    return results / slug / f"{scale}.json"


def figure_path(results: Path, slug: str, scale: str) -> Path:
    """Where its figure is."""
    return result_path(results, slug, scale).with_suffix(".svg")


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and rename it, so that no reader and no crash ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_result(results: Path, result: Result) -> Path:
    """Store a result; one of the same claim and scale is replaced."""
    data = result_to_json(result)
    path = result_path(results, result.slug, result.scale)
    write_text(path, _layout({**data, _SUM: _checksum(data)}) + "\n")
    return path


def read_result(path: Path) -> Result:
    """The result that :func:`write_result` stored.

    Raises:
        ClaimError: the file can't be read, isn't a result, or was changed since it was written.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        stored = data.pop(_SUM, "")
        result = result_from_json(data)
    except OSError as error:
        raise ClaimError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClaimError(f"{path}: is not a result of thalweg check ({type(error).__name__}: {error})") from None
    if stored != _checksum(data):
        raise ClaimError(f"{path}: was edited after it was written; run thalweg check {result.slug} again")
    return result


def stored_results(results: Path) -> list[Result]:
    """All results of a folder, by slug and scale.

    Raises:
        ClaimError: one of them is damaged; :func:`thalweg.claims.engine.verify.problems` lists all that are.
    """
    return [read_result(path) for path in result_files(results)]


def result_files(results: Path) -> list[Path]:
    """The files of all results of a folder; hidden folders hold unfinished work."""
    return sorted(path for path in results.glob("*/*.json") if not path.parent.name.startswith("."))


def result_to_json(result: Result) -> dict[str, Any]:
    """A result as plain JSON."""
    data = {field.name: getattr(result, field.name) for field in dataclasses.fields(Result)}
    data["verdict"] = dataclasses.asdict(result.verdict)
    data["seeds"] = list(result.seeds)
    data["measurements"] = data.pop("measurements")  # last: they are long
    data["measurements"] = [measurement_to_json(measurement) for measurement in result.measurements]
    return data


def result_from_json(data: Mapping[str, Any]) -> Result:
    """The result that :func:`result_to_json` gave."""
    changed = {
        "verdict": Verdict(**data["verdict"]),
        "seeds": tuple(data["seeds"]),
        "measurements": tuple(map(measurement_from_json, data["measurements"])),
    }
    return Result(**{**data, **changed})


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """A measurement as plain JSON, its curves rounded."""
    curves = [
        {**dataclasses.asdict(curve), "x": [*map(_rounded, curve.x)], "y": [*map(_rounded, curve.y)]}
        for curve in measurement.curves
    ]
    return {"numbers": {name: plain_number(number) for name, number in measurement.numbers.items()}, "curves": curves}


def measurement_from_json(data: Mapping[str, Any]) -> Measurement:
    """The measurement that :func:`measurement_to_json` gave."""
    curves = [
        {**curve, "x": tuple(map(float, curve["x"])), "y": tuple(map(float, curve["y"]))} for curve in data["curves"]
    ]
    return Measurement(
        {name: float(number) for name, number in data["numbers"].items()}, tuple(Curve(**curve) for curve in curves)
    )


def plain_number(number: float) -> float | str:
    """A float as JSON has it: infinity and NaN as texts."""
    return number if math.isfinite(number) else str(number)


def _rounded(number: float) -> float | str:
    return plain_number(float(f"{float(number):.{DIGITS}g}"))


def _checksum(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _layout(value: Any, indent: int = 0) -> str:
    """JSON with a line for what is short or a list of numbers, so that a change of one curve is a change of one line."""
    line = json.dumps(value, allow_nan=False, ensure_ascii=False)
    flat = isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)
    if not isinstance(value, dict | list) or not value or flat or indent + len(line) <= _WIDE:
        return line
    space, after = " " * (indent + 1), " " * indent
    if isinstance(value, dict):
        rows = [
            f"{space}{json.dumps(key, ensure_ascii=False)}: {_layout(item, indent + 1)}" for key, item in value.items()
        ]
        return "{\n" + ",\n".join(rows) + f"\n{after}}}"
    return "[\n" + ",\n".join(f"{space}{_layout(item, indent + 1)}" for item in value) + f"\n{after}]"
