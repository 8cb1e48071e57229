"""Numbers as people read them; what is missing is a dash."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

MISSING = "–"


def number(value: float | None, digits: int = 3, pad: bool = True) -> str:
    """``value`` with ``digits`` significant digits: ``0.930``, ``12,400``, ``1e-5``; zeros at the end only if ``pad``.

    Example:
        >>> number(12400.0), number(1e-5), number(None), number(float("inf"))
        ('12,400', '1e-5', '–', '∞')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}".replace("-", "−")
        return text if pad or "." not in text else text.rstrip("0").rstrip(".")
    return re.sub(r"e([+-])0*", lambda m: "e-" if m[1] == "-" else "e", f"{value:.{digits}g}")


def tick(value: float) -> str:
    """A short axis label: ``0.5``, ``200``, ``12k``, ``1e-5``."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e9:
        return re.sub(r"(?:\.0)?e([+-])0*", lambda m: "e-" if m[1] == "-" else "e", f"{value:.1e}")
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e6 if letter == 'M' else 1e3):.4g}{letter}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def steps(value: float | None) -> str:
    """A number of steps."""
    return MISSING if value is None or math.isnan(value) else number(value) if math.isinf(value) else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds in a unit that fits.

    Example:
        >>> duration(0.0123), duration(2.5), duration(200)
        ('12.3 ms', '2.50 s', '3 min 20 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return number(seconds)
    if seconds < 1e-3:
        return f"{number(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{number(seconds * 1e3)} ms"
    if seconds < 120:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float | None) -> str:
    """Bytes in binary units.

    Example:
        >>> size(0), size(1536), size(3 * 2**30)
        ('0', '1.50 KiB', '3.00 GiB')
    """
    if count is None or not math.isfinite(count):
        return number(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return "0" if count == 0 else f"{number(count)} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{number(count)} TiB"


def ratio(value: float | None) -> str:
    """A ratio against the baseline, two decimals from 0.1 on: ``0.62``."""
    if value is None or not math.isfinite(value) or value < 0.1 or value >= 100:
        return number(value, 2)
    return f"{value:.2f}"


def interval(bounds: Sequence[float | None] | None, form: Any = ratio) -> str:
    """``"0.55 to 0.71"``; empty if there is none. A missing or infinite bound is open."""
    if not bounds:
        return ""
    low, high = bounds
    open_low = low is None or math.isnan(low) or math.isinf(low)
    open_high = high is None or math.isnan(high) or math.isinf(high)
    if open_low and open_high:
        return ""
    if open_high:
        return f"above {form(low)}"
    if open_low:
        return f"below {form(high)}"
    return f"{form(low)} to {form(high)}"


def finite(value: float | None) -> bool:
    """Whether ``value`` is a number that can be drawn."""
    return value is not None and math.isfinite(value)
