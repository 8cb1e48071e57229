"""What a check tells about itself: beforehand, while it runs, and when it is stopped."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from thalweg.claims.engine.claim_file import ClaimFile

PAUSE = 10.0
"""Seconds between lines about an unfinished part, where there is no terminal to draw a bar on."""


class Listener(Protocol):
    """Is told what happens in a check."""

    def note(self, text: str) -> None:
        """Something to know."""

    def started(self, claim: ClaimFile, scale: str, parts: list[str], kept: list[str]) -> None:
        """The check starts or goes on; the ``kept`` ones of its parts ("choose", "seed 3") are there already."""

    def moved(self, part: str, share: float, doing: str) -> None:
        """This share of a part is done."""

    def finished(self, part: str) -> None:
        """A part is done and stored."""

    def stopped(self) -> None:
        """The check is over, or was stopped."""


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def started(self, claim: ClaimFile, scale: str, parts: list[str], kept: list[str]) -> None:
        """Nothing."""

    def moved(self, part: str, share: float, doing: str) -> None:
        """Nothing."""

    def finished(self, part: str) -> None:
        """Nothing."""

    def stopped(self) -> None:
        """Nothing."""


class Bar:
    """Says on standard error what is measured and how long it takes; then a bar, or a line a part if it's no terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Any = None
        self._slug = ""
        self._parts: list[str] = []
        self._done = 0
        self._here = 0
        self._since = self._said = 0.0

    def note(self, text: str) -> None:
        """A line."""
        print(text, file=sys.stderr, flush=True)

    def started(self, claim: ClaimFile, scale: str, parts: list[str], kept: list[str]) -> None:
        """What is measured and how long it takes; then the bar."""
        self._slug, self._parts, self._done, self._here = claim.slug, parts, len(kept), 0
        self._since = self._said = time.monotonic()
        seeds = [part.removeprefix("seed ") for part in parts if part != "choose"]
        left = claim.claim.SCALES[scale].seconds * (1 - len(kept) / len(parts))
        self.note(f"{claim.slug}: {claim.headline}")
        settings = "settings are chosen, then " if "choose" in parts else ""
        there = f"; {len(kept)} of {len(parts)} parts are there already" if kept else ""
        noun = "seed" if len(seeds) == 1 else "seeds"
        self.note(f"{scale} scale, {about(left)} on two cores: {settings}{noun} {', '.join(seeds)}{there}")
        if not self._console.is_terminal:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, expand=True, transient=True)
        self._bar.add_task(claim.slug, total=len(parts), completed=len(kept))
        self._bar.start()

    def moved(self, part: str, share: float, doing: str) -> None:
        """Move the bar; without one, a line now and then."""
        told = f"{part}: {doing}" if doing else part
        share = min(1.0, max(0.0, share))
        if self._bar is not None:
            self._bar.update(0, completed=self._done + share, description=told)
        elif time.monotonic() - self._said >= PAUSE:
            self._said = time.monotonic()
            self.note(f"{self._slug}: {100 * (self._done + share) / len(self._parts):.0f}%, {told}")

    def finished(self, part: str) -> None:
        """Count a part."""
        self._done, self._here, self._said = self._done + 1, self._here + 1, time.monotonic()
        if self._bar is not None:
            self._bar.update(0, completed=self._done)
            return
        left = (time.monotonic() - self._since) / self._here * (len(self._parts) - self._done)
        rest = f", {about(left)} left" if self._done < len(self._parts) else ""
        self.note(f"{self._slug}: {part} done, {self._done} of {len(self._parts)}{rest}")

    def stopped(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def farewell(self, again: str) -> str:
        """What to say when the check was stopped; ``again`` is the command that goes on with it."""
        if not self._slug:
            return "stopped before anything was measured"
        return f"stopped; {self._done} of {len(self._parts)} parts of {self._slug} are kept. Go on with: {again}"


def about(seconds: float) -> str:
    """A time as people say it.

    Example:
        >>> [about(s) for s in (0.4, 42, 150, 5400)]
        ['about 1 s', 'about 42 s', 'about 2.5 min', 'about 1.5 h']
    """
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    value, unit = (seconds / 60, "min") if seconds < 5400 else (seconds / 3600, "h")
    return f"about {value:.2g} {unit}"
