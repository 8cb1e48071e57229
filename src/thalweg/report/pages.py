"""What every page is made with: templates that escape each text and fail on a name that isn't there."""

from __future__ import annotations

import jinja2

from thalweg.report import numbers
from thalweg.report.text import clean


def page_environment() -> jinja2.Environment:
    """The Jinja environment of the report and the site, with the report's ways to write numbers as filters."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("thalweg.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        clean=clean, number=numbers.number, ratio=numbers.ratio, interval=numbers.interval, steps=numbers.steps,
        duration=numbers.duration, size=numbers.size,
    )  # fmt: skip
    return environment


def source(environment: jinja2.Environment, name: str) -> str:
    """A template's text as it is: style and script hold braces of their own."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
