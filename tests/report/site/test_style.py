"""The site's own colours can be read, light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import thalweg.report
from thalweg.report.site.badges import BADGES, NONE

TEMPLATES = Path(thalweg.report.__file__).parent / "templates"


def colours(mode: int) -> dict[str, str]:
    """Variables of both style sheets; dark ones replace light ones."""
    found = {}
    for sheet in ("style.css", "site/site.css"):
        parts = (TEMPLATES / sheet).read_text().split("@media")
        for part in parts[: mode + 1]:
            found |= dict(re.findall(r"(--[\w-]+):\s*(#[0-9a-f]{6});", part))
    return found


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_texts_have_the_contrast_that_wcag_aa_asks_for(mode: int) -> None:
    found = colours(mode)
    for text, ground in (("good", "good-wash"), ("fair", "fair-wash"), ("bad", "bad-wash"), ("ink", "plain-wash"),
                         ("good", "paper"), ("fair", "paper"), ("bad", "paper"), ("ink", "wash"), ("ink", "lift"),
                         ("muted", "paper"), ("muted", "wash"), ("muted", "lift"), ("accent", "paper"), ("paper", "ink")):  # fmt: skip
        assert contrast(found[f"--{text}"], found[f"--{ground}"]) >= 4.5, (text, ground)
    for edge, ground in (("muted", "paper"), ("muted", "lift"), ("accent", "paper"), ("accent", "wash")):
        assert contrast(found[f"--{edge}"], found[f"--{ground}"]) >= 3, (edge, ground)


def test_every_tone_has_a_style() -> None:
    sheet = (TEMPLATES / "site" / "site.css").read_text()
    for badge in (*BADGES, NONE):
        assert badge.tone == "plain" or f'.badge[data-tone="{badge.tone}"]' in sheet


def test_every_variable_that_is_used_is_defined() -> None:
    sheets = "".join((TEMPLATES / name).read_text() for name in ("style.css", "site/site.css"))
    defined = set(re.findall(r"(--[\w-]+):", sheets))
    assert set(re.findall(r"var\((--[\w-]+)\)", sheets)) <= defined
