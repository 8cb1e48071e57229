"""What a claim file exposes, and the plain data that it gives.

A claim file is named after its paper's slug (``deep_linear_dynamics.py`` for ``deep-linear-dynamics``) and holds

- ``RULE``: the verdict rule in words, with thresholds and reasons, written before the numbers are seen;
- ``SCALES``: a :class:`Scale` for ``"smoke"`` and ``"cpu"``, and for ``"gpu"`` where a larger run says more;
- ``PANELS``: the figure's panels;
- ``run(scale, seed, *, report) -> Measurement``: the experiment with one seed, the same whenever it is run again;
- ``judge(measurements) -> Verdict``: ``RULE`` as code, from the stored numbers alone;
- where settings must be chosen first: ``choose(scale, *, report) -> dict`` of plain JSON, worked out on seeds that ``run``
  never gets; ``run`` then takes it as ``chosen=``.

A claim names no device: at gpu scale all that it makes is made on the accelerator (see
:mod:`thalweg.claims.engine.device`). What it keeps between seeds it remembers by :func:`thalweg.tasks.remembered.remembered`.

``report(share, doing="")`` takes the share done (0 to 1) and what is being done now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Word = Literal[
    "reproduced",
    "partly",
    "not reproduced at this scale",
    "not testable at this scale",
    "needs an accelerator",
]
Role = Literal["measured", "theory", "control"]


@dataclass(frozen=True)
class Scale:
    """One size of an experiment.

    Args:
        seeds: seeds that ``run`` gets, each once; nothing was chosen on them.
        seconds: about how long all of it takes on two cores, ``choose`` included; at gpu scale a guess for a data centre's GPU.
    """

    seeds: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Panel:
    """One panel of a claim's figure.

    Args:
        key: what curves name it by.
        title, x, y: texts; the axes' with units.
        log: logarithmic axes: "", "x", "y" or "xy".
    """

    key: str
    title: str
    x: str
    y: str
    log: Literal["", "x", "y", "xy"] = ""


@dataclass(frozen=True)
class Curve:
    """A line of the figure. Curves of one panel, label and role over several seeds are drawn as their median and band.

    Args:
        panel: key of its :class:`Panel`.
        label: what it is, for the legend.
        x, y: coordinates, at most a few hundred.
        role: "measured" (solid), "theory" (dashed) or "control" (dotted).
    """

    panel: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    role: Role = "measured"


@dataclass(frozen=True)
class Measurement:
    """What one seed gave: named numbers, which alone decide the verdict, and curves, which are shown.

    Numbers are floats; infinity is allowed (never reached), NaN is not.
    """

    numbers: Mapping[str, float]
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A word, and why, in one or two sentences with the deciding numbers.

    Args:
        word: see :data:`Word`. "partly", "not reproduced" and "not testable" need the likely reason in ``because``.
        because: the deciding numbers beside their thresholds.
        explained_by: where a simpler change gives the same gain: which ("reproduced, but explained by ...").
    """

    word: Word
    because: str
    explained_by: str | None = None


class Report(Protocol):
    """Takes progress: ``report(0.5, "training 20 nets")``."""

    def __call__(self, share: float, doing: str = "") -> None: ...


class Claim(Protocol):
    """A claim file, as a module."""

    RULE: str
    SCALES: Mapping[str, Scale]
    PANELS: tuple[Panel, ...]

    def run(self, scale: str, seed: int, *, report: Report) -> Measurement:
        """The experiment with one seed."""

    def judge(self, measurements: list[Measurement]) -> Verdict:
        """The verdict on the measurements of all seeds, in their order."""


@dataclass(frozen=True)
class Result:
    """A finished check: all that a verdict stands on. Stored as JSON under ``results/``."""

    slug: str
    scale: str
    rule: str
    measurements: tuple[Measurement, ...]
    seeds: tuple[int, ...]
    verdict: Verdict
    chosen: Mapping[str, Any] | None = None
    seconds: float = 0.0
    claim_sha256: str = ""
    command: str = ""
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
