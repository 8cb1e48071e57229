"""A made-up reading list of 123 entries, with every kind of verdict and result."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from thalweg.catalog.paper import SEAMS, Finding, Paper
from thalweg.claims.engine.contract import Curve, Measurement, Panel, Result, Verdict, Word
from thalweg.report.site import Check, Race, build, find_races

WORDS: tuple[Word, ...] = (
    "reproduced", "partly", "not reproduced at this scale", "not testable at this scale", "needs an accelerator",
)  # fmt: skip
TOPICS = (
    "grokking", "double descent", "in-context learning", "implicit bias", "sharpness", "over-parametrization", "sign updates",
    "low-rank adapters", "large batches", "language models", "memory", "initialization", "quantization", "sampling",
    "multi-task", "kernels", "second order", "data pruning",
)  # fmt: skip
NOUNS = (
    "Descent",
    "Momentum",
    "Adapters",
    "Curvature",
    "Attention",
    "Grokking",
    "Spectra",
    "Sampling",
    "Pruning",
    "Features",
)
REAL = {
    0: ("thalweg.optim.Lion", "thalweg.optim.sign.sign"),
    1: ("thalweg.optim.Muon",),
    2: ("thalweg.init.orthogonal_",),
    3: ("thalweg.probe.hessian_spectrum",),
}
PANELS = (
    Panel("modes", "Strength of each mode", "training step", "singular value of the product"),
    Panel("error", "How far theory is off", "width", "relative error", "xy"),
)


def make_paper(i: int) -> Paper:
    """The i-th entry; every text is longer than a real one would be at times."""
    seam = list(SEAMS)[i % len(SEAMS)]
    noun, topic = NOUNS[i % len(NOUNS)], TOPICS[i % len(TOPICS)]
    return Paper(
        slug=f"{noun.lower()}-{i:03d}",
        title=f"{noun} Without Tears {i}: On the {TOPICS[(i + 5) % len(TOPICS)].title()} of Large and Very Large Networks",
        year=2013 + i % 13,
        arxiv=f"{13 + i % 13}{1 + i % 12:02d}.{10000 + 37 * i}" if i % 9 else "",
        seam=seam,
        kind=("method", "claim", "both")[i % 3],
        summary=f"Replaces the usual step by one that takes {topic} into account. It keeps one number for each weight and "
        f"needs no tuning beyond the learning rate. Made-up entry number {i}.",
        claim=f"Trains {1 + i % 7}.{i % 10} times faster than the baseline at equal budget. The gain grows with the width.",
        topics=(topic, TOPICS[(i * 7 + 3) % len(TOPICS)], TOPICS[(i * 5 + 1) % len(TOPICS)]),
        implements=REAL.get(i, ()),
        finding=Finding(
            WORDS[i // 3 % 7 % 5], f"On small problems {noun.lower()} number {i} keeps about half of what it says."
        )
        if i % 3 == 0
        else None,
    )


def make_result(paper: Paper, word: Word, seeds: int = 5, scale: str = "cpu", day: int = 1) -> Result:
    """A check of ``paper``: sigmoids with noise around their theory, and a power law, with a control."""
    measurements = []
    for seed in range(seeds):
        noise = np.random.default_rng([seed, len(paper.slug), *paper.slug.encode()])
        steps = np.linspace(0, 400, 120)
        curves = []
        for mode, strength in enumerate((3.0, 2.0, 1.0), 1):
            theory = strength / (1 + np.exp(-(steps - 240 / strength) * strength / 25))
            found = theory * (1 + noise.normal(0, 0.04, len(steps)).cumsum() / 8)
            curves.append(Curve("modes", f"mode {mode}", tuple(steps), tuple(found)))
            curves.append(Curve("modes", f"mode {mode}", tuple(steps), tuple(theory), "theory"))
        widths = 2.0 ** np.arange(4, 11)
        curves.append(
            Curve("error", "trained nets", tuple(widths), tuple(3 / widths * np.exp(noise.normal(0, 0.2, 7))))
        )
        curves.append(Curve("error", "1/width", tuple(widths), tuple(3 / widths), "theory"))
        curves.append(
            Curve("error", "random features", tuple(widths), tuple(np.exp(noise.normal(-0.5, 0.1, 7))), "control")
        )
        numbers = {"slope": float(noise.normal(-1, 0.03)), "largest error": float(abs(noise.normal(0.02, 0.004))),
                   "steps to the plateau": math.inf if word == "partly" and seed == 2 else 240.0 + seed}  # fmt: skip
        measurements.append(Measurement(numbers, tuple(curves)))
    return Result(
        slug=paper.slug, scale=scale,
        rule="Reproduced if the slope of the error against the width lies between -1.1 and -0.9 in the median, since the "
        "theory says -1 and five seeds tell 0.05.\n\nNot testable if no net leaves the plateau.",
        measurements=tuple(measurements), seeds=tuple(range(100, 100 + seeds)),
        verdict=Verdict(word, "The slope is -1.01 (needed: -1.1 to -0.9). The largest error is 0.02, below 0.05.",
                        "a larger learning rate alone" if paper.slug.endswith("2") and word == "reproduced" else None),
        seconds=74.0, claim_sha256="0" * 64, command=f"thalweg check {paper.slug} --scale {scale}",
        date=f"2026-11-{day:02d}T10:30:00+00:00", versions={"thalweg": "0.2.0", "python": "3.11.2", "torch": "2.13.0"},
        machine={"platform": "Linux x86_64", "processor": "a processor", "cores": 2, "accelerator": "cpu"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def papers() -> dict[str, Paper]:
    """123 entries by slug."""
    made = [make_paper(i) for i in range(123)]
    return {paper.slug: paper for paper in made}


@pytest.fixture(scope="session")
def checks(papers: dict[str, Paper]) -> list[Check]:
    """A check of every third entry, and a smoke run of another one."""
    checked = list(papers.values())[::3]
    made = [make_result(paper, WORDS[i % 7 % 5], day=1 + i % 28) for i, paper in enumerate(checked)]
    made.append(make_result(list(papers.values())[1], "partly", seeds=1, scale="smoke"))
    return [Check(result, PANELS) for result in made]


@pytest.fixture(scope="session")
def finished(edge_report: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Race]:
    """One finished race."""
    report = edge_report("one recipe")
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mnist5k").mkdir()
    (folder / "mnist5k" / "report.html").write_bytes(report.read_bytes())
    return find_races([folder])


@pytest.fixture(scope="session")
def site(
    papers: dict[str, Paper], checks: list[Check], finished: list[Race], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The site of all that, built once."""
    return build(tmp_path_factory.mktemp("site") / "site", papers, checks, finished, [list(papers)[1]]).out


@pytest.fixture(scope="session")
def maker() -> Callable[..., Check]:
    """``maker(paper, word, ...)``: a check as :func:`make_result` makes it."""
    return lambda paper, word="reproduced", **given: Check(make_result(paper, word, **given), PANELS)
