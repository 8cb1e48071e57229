"""NorMuon evens out the rows of Muon's updates, and needs fewer steps for it.

The claim of arXiv:2510.05491, on a byte-level language model of real text: what updates look like under AdamW, Muon and NorMuon,
and the steps to the same loss; with the control that normalizes rows too, but by the present step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.language_model import Size, best_rate, train
from thalweg.claims.engine.paired import difference
from thalweg.optim import AdamW, Muon, NorMuon

RULE = """\
Byte-level language model of real text (2 blocks of width 64, one matrix for queries, keys and values), validation loss, 5 fresh
seeds. On another seed AdamW's learning rate is chosen, then that of Muon and of NorMuon for hidden matrices, each among 3, with
AdamW at its best rate for the rest; a best rate at a grid's edge widens the grid.
1. Rows. Every twentieth of the training, over the matrices with more rows than columns: the spread of row norms of the update
   (standard deviation over mean), and its largest over its ceil(0.9 n)-th singular value. NorMuon's first number is less than half
   of Muon's, and its second less than three times Muon's.
2. Steps. The share of all steps after which NorMuon's loss is at or below Muon's last one, on straight lines between evaluations;
   1.05 if it never is. Mean at most 0.95, and below 1 on at least 4 of 5 seeds.
Reproduced: both. Partly: one, or 2. with a mean below 1 only. Not reproduced: neither.
Control: NorMuon without memory (beta2 = 0), at NorMuon's rate. If its mean share is at most 0.02 above NorMuon's, the gain in
steps is explained by it. The paper's gains (11% over Muon, 22% over Adam) are at 1.1 billion parameters; AdamW is shown."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=4), "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=270)}

PANELS = (
    Panel("loss", "Language model: validation loss", "step", "nats per byte"),
    Panel("rows", "Row norms of updates, tall matrices", "step", "standard deviation over mean"),
    Panel("spectrum", "Singular values of updates, tall matrices", "step", "largest over 0.9-th", log="y"),
)

ARMS: dict[str, Role] = {"AdamW": "measured", "Muon": "measured", "NorMuon": "measured", "without memory": "control"}
GRIDS = {"AdamW": (-3.0, -2.5, -2.0), "Muon": (-2.1, -1.7, -1.3), "NorMuon": (-2.1, -1.7, -1.3)}
"""First exponents of ten of the learning rates."""
TUNING_SEED = 1000


@dataclass(frozen=True)
class Plan:
    """A size, and how much is tuned in it."""

    size: Size
    points: int
    widen: int
    looks: int


PLANS = {
    "smoke": Plan(Size(steps=6, width=16, context=16, evaluations=3, valid_windows=8), points=1, widen=0, looks=2),
    "cpu": Plan(Size(steps=250, width=64, context=64, evaluations=12, valid_windows=128), points=3, widen=3, looks=20),
}


def choose(scale: str, *, report: Report) -> dict[str, float]:
    """Learning rates: AdamW's, then those of the hidden matrices beside it."""
    plan = PLANS[scale]
    chosen: dict[str, float] = {}
    for place, (arm, grid) in enumerate(GRIDS.items()):
        report(place / len(GRIDS), f"choosing {arm}'s learning rate")

        def score(rate: float, arm: str = arm) -> float:
            return train(_maker(arm, {**chosen, arm: rate}), TUNING_SEED, plan.size).final

        chosen[arm] = best_rate(score, grid if plan.points > 1 else grid[1:2], plan.widen)
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms from one start, over the same data."""
    plan = PLANS[scale]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    courses = {}
    for place, (arm, role) in enumerate(ARMS.items()):
        report(place / len(ARMS), arm)
        looks: list[tuple[int, float, float]] = []

        def look(step: int, moved: dict[str, Tensor], looks: list[tuple[int, float, float]] = looks) -> None:
            tall = [m for name, m in moved.items() if name.startswith("blocks.") and m.shape[0] > m.shape[1]]
            looks.append((step, _mean(map(row_spread, tall)), _mean(map(condition, tall))))

        every = max(1, plan.size.steps // plan.looks)
        courses[arm] = train(_maker(arm, chosen), seed, plan.size, look_every=every, look=look)
        steps, spreads, conditions = zip(*looks, strict=True)
        numbers[f"{arm}: validation loss"] = courses[arm].final
        numbers[f"{arm}: spread of row norms"] = _mean(spreads)
        numbers[f"{arm}: largest over 0.9-th singular value"] = _mean(conditions)
        curves.append(Curve("loss", arm, courses[arm].steps, courses[arm].losses, role))
        curves.append(Curve("rows", arm, tuple(map(float, steps)), spreads, role))
        curves.append(Curve("spectrum", arm, tuple(map(float, steps)), conditions, role))
    for arm in ("NorMuon", "without memory"):
        numbers[f"{arm}: share of the steps to Muon's loss"] = courses[arm].share_to(courses["Muon"].final)
    numbers["Muon: share of the steps to AdamW's loss"] = courses["Muon"].share_to(courses["AdamW"].final)
    numbers["NorMuon: share of the steps to AdamW's loss"] = courses["NorMuon"].share_to(courses["AdamW"].final)
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def mean(key: str) -> float:
        return _mean(m.numbers[key] for m in measurements)

    spread = {arm: mean(f"{arm}: spread of row norms") for arm in ("Muon", "NorMuon")}
    conditions = {arm: mean(f"{arm}: largest over 0.9-th singular value") for arm in ("Muon", "NorMuon")}
    rows = spread["NorMuon"] < 0.5 * spread["Muon"] and conditions["NorMuon"] < 3 * conditions["Muon"]
    key = "NorMuon: share of the steps to Muon's loss"
    share, control = mean(key), mean("without memory: share of the steps to Muon's loss")
    won = sum(m.numbers[key] < 1 for m in measurements)
    faster = share <= 0.95 and 5 * won >= 4 * len(measurements)
    losses = [[m.numbers[f"{arm}: validation loss"] for m in measurements] for arm in ("NorMuon", "Muon")]
    gain = difference(*losses)
    because = (
        f"Tall matrices' row norms spread by {spread['NorMuon']:.2f} with NorMuon and {spread['Muon']:.2f} with Muon (less than half "
        f"asked for), largest over 0.9-th singular value {conditions['NorMuon']:.2f} and {conditions['Muon']:.2f} (less than three "
        f"times). Share of the steps to Muon's last loss: {share:.2f} (0.95), below 1 on {won} of {len(measurements)} seeds, "
        f"{control:.2f} without memory; NorMuon minus Muon at the end: {gain.mean:+.3f} nats ({gain.low:+.3f} to {gain.high:+.3f})."
    )
    explained = "normalizing the rows of every step by itself, without memory" if control <= share + 0.02 else None
    if rows and faster:
        return Verdict("reproduced", because, explained)
    if faster or share < 1:
        likely = (
            "the steps are fewer, but rows differ otherwise than the paper says" if faster else "the gain is small here"
        )
        return Verdict("partly", f"{because} Likely reason: {likely}.", explained)
    if rows:
        likely = "even rows make little difference to a net this small"
        return Verdict("partly", f"{because} Likely reason: {likely}.")
    likely = "NorMuon doesn't even out the rows here, and so has nothing to gain from it"
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def row_spread(update: Tensor) -> float:
    """Standard deviation of the row norms over their mean; 0 for an update of zeros."""
    norms = update.norm(dim=1)
    return (norms.std(correction=0) / norms.mean().clamp(min=1e-30)).item()


def condition(update: Tensor) -> float:
    """The largest over the ceil(0.9 n)-th singular value, which is spared the smallest ones' accidents; at most 1e6."""
    values = torch.linalg.svdvals(update.double())
    return min((values[0] / values[math.ceil(0.9 * len(values)) - 1].clamp(min=1e-30)).item(), 1e6)


def _maker(arm: str, rates: Mapping[str, float]) -> Callable[[nn.Module], torch.optim.Optimizer]:
    rest = rates["AdamW"]
    betas = (0.9, 0.95)
    if arm == "AdamW":
        return lambda model: AdamW(model, lr=rest, betas=betas, weight_decay=0.0)
    if arm == "Muon":
        return lambda model: Muon(model, lr=rates["Muon"], rest_lr=rest, rest_betas=betas, ns_dtype="float32")
    beta2 = 0.95 if arm == "NorMuon" else 0.0
    return lambda model: NorMuon(
        model, lr=rates["NorMuon"], beta2=beta2, rest_lr=rest, rest_betas=betas, ns_dtype="float32"
    )


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)
