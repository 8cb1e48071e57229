"""What a race can train and how: the built-in tasks and the methods a recipe can name."""

from __future__ import annotations

import inspect
from typing import Any

from rich.table import Table
from rich.text import Text

from thalweg.race.recipe import SEAMS, allowed_settings, is_optimizer, load_methods, raceable
from thalweg.race.records import jsonable
from thalweg.registry import Method, Space, unknown


def method_rows(seam: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
    """Every method that a recipe can name, optimizers first, with its settings and what a race tunes.

    Args:
        seam: only methods of one seam.
        name: only this method.

    Raises:
        ValueError: no such seam or method.
    """
    if seam is not None and seam not in SEAMS:
        raise ValueError(unknown("seam", seam, SEAMS))
    load_methods()
    if name is not None and name not in raceable():
        raise ValueError(unknown("method", name, raceable()))
    order = {"optimizer": 0, "transform": 1}
    rows = [
        _row(method) for method in raceable().values() if seam in (None, method.seam) and name in (None, method.name)
    ]
    return sorted(rows, key=lambda row: (SEAMS.index(row["seam"]), order.get(row["kind"], 0), row["name"]))


def method_table(rows: list[dict[str, Any]]) -> Table:
    """The methods as a table; their other settings too if there is only one."""
    table = Table(
        title="Methods a recipe can name", caption="e.g. thalweg race adamw 'lion(betas=(0.95, 0.98)) + orthogonal'"
    )
    one = len(rows) == 1
    for heading in ("name", "acts as", "tuned over" if one else "tuned"):
        table.add_column(heading, no_wrap=True)
    table.add_column("settings and defaults" if one else "what it does")
    for row in rows:
        ranges = [f"{key}: {_range(tuple(space))}" for key, space in row["search"].items()]
        settings = [f"{key}={value!r}" for key, value in row["settings"].items()]
        last = "\n".join(settings) if one else row["summary"].replace("``", "")
        table.add_row(*map(Text, (row["name"], row["kind"], "\n".join(ranges if one else row["search"]), last)))
    return table


def task_rows() -> list[dict[str, Any]]:
    """Every built-in task."""
    from thalweg import tasks

    rows = []
    for name in tasks.names():
        task = tasks.load(name)
        sizes = {"train": len(task.train), "valid": len(task.valid)}  # type: ignore[arg-type]
        rows.append(
            {
                "name": name,
                "summary": tasks.describe(name),
                "metric": task.metric_name,
                "goal": task.goal,
                "target": task.target,
                "steps": task.steps,
                "batch_size": task.batch_size,
                "parameters": sum(parameter.numel() for parameter in task.model().parameters()),
                **sizes,
            }
        )
    return rows


def task_table(rows: list[dict[str, Any]]) -> Table:
    """The tasks as a table."""
    table = Table(
        title="Built-in tasks", caption="or your own: thalweg race --task my_task.py, a file that defines task()"
    )
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for heading in ("examples", "parameters", "steps"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = [f"{row[key]:,}" for key in ("train", "parameters", "steps")]
        table.add_row(Text(row["name"]), Text(row["summary"]), *numbers)
    return table


def _row(method: Method) -> dict[str, Any]:
    kinds = {"init": "initialization", "nn": "model converter", "data": "data selection"}
    kind = kinds.get(method.seam) or ("optimizer" if is_optimizer(method) else "transform")
    defaults = method.settings()
    settings = {key: defaults[key] for key in allowed_settings(method)}
    shown = {key: None if value is inspect.Parameter.empty else _plain(value) for key, value in settings.items()}
    return {
        "name": method.name,
        "seam": method.seam,
        "kind": kind,
        "summary": (inspect.getdoc(method.target) or "").split("\n")[0],
        "settings": jsonable(shown),
        "search": jsonable(dict(method.search)),
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str | tuple | list) else str(value)


def _range(space: Space) -> str:
    kind, *values = space
    if kind == "choice":
        return " | ".join(map(str, values))
    return f"{values[0]:g} to {values[1]:g}{' (log)' if kind == 'log' else ''}"
