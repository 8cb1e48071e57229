"""Columns picked from a fixed cosine basis project gradients about as well as their singular vectors do, and far cheaper.

The claim of arXiv:2505.17967 on a byte-level language model of real text, each rule beside its twin with singular vectors; with a
random orthogonal basis in the place of the cosines as the control.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict, Word
from thalweg.claims.engine.language_model import Size
from thalweg.claims.engine.matrix_arms import (
    BETAS,
    Arm,
    Plan,
    adamw,
    choose_rates,
    gap,
    in_words,
    losses_of,
    measured,
    run_arms,
    state_share,
)
from thalweg.linalg.subspace_basis import svd_basis
from thalweg.optim import Subspace, adam_direction, subspace_groups
from thalweg.optim.gradient_projector import PROJECTORS

RULE = """\
Byte-level language model of real text (2 blocks of width 32), final validation loss, fresh seeds. Adam runs in a subspace of rank 8 of
every hidden matrix: a new one every 50 steps, moments kept, as in GaLore; or a new one at every step, moments carried over, as in
DCT-AdamW. On another seed AdamW's learning rate is chosen, then that of each other arm for the hidden matrices, with AdamW at its best
rate for the rest; each among 3, and a best rate at a grid's edge widens the grid.
1. Loss. With either calendar, the mean with the cosine basis is at most 1% above that with singular vectors (partly: 3%).
2. Time. Picking columns for a 256 x 1024 matrix takes at most a third of the time of finding its singular vectors, by the faster of a
   singular value decomposition and of eigenvectors of the smaller Gram matrix; one thread, its own time, the best of 5.
Reproduced: both. Partly: the loss within 1% alone, or within 3%. Not reproduced: otherwise.
Control: columns picked from a random orthogonal basis at every step. If its mean is at most 0.005 nats above that with cosines, it is
the picking that works, and not the cosines."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=5), "cpu": Scale(seeds=(11, 12, 13), seconds=150)}

PANELS = (
    Panel("loss", "Language model: validation loss", "step", "nats per byte"),
    Panel("projection", "Gradients outside the subspace", "rank over width", "relative error"),
)

PLANS = {
    "smoke": Plan(Size(steps=4, width=16, context=16, evaluations=2, valid_windows=8), widen=None),
    "cpu": Plan(Size(steps=200, width=32, context=32, evaluations=10, valid_windows=256), widen=3),
}

CALENDARS = {"every 50 steps": (50, "keep"), "every step": (1, "rotate")}
NAMES = {"svd": "singular vectors", "dct2": "cosines", "haar": "random"}
BASES = {**NAMES, "dct3": "cosines, transposed", "random": "random, not picked"}
SHARES = (1 / 16, 1 / 8, 1 / 4)
SHAPE = (1024, 256)
TIME = "time of picking over that of singular vectors"


def _arm(basis: str, calendar: str, role: Role = "measured") -> Arm:
    every, on_switch = CALENDARS[calendar]

    def make(model: nn.Module, rate: float, rest: float) -> Subspace:
        settings: dict[str, Any] = {"basis": basis, "on_switch": on_switch, "update_every": every}
        return Subspace(model, adam_direction(betas=BETAS), lr=rate, rank=8, rest_lr=rest, rest_betas=BETAS, **settings)

    return Arm(make, -2.0, role)


ARMS = {
    "AdamW, one rate": Arm(adamw, -2.5),
    **{f"{NAMES[basis]}, {calendar}": _arm(basis, calendar) for calendar in CALENDARS for basis in ("svd", "dct2")},
    "random, every step": _arm("haar", "every step", "control"),
}


def choose(scale: str, *, report: Report) -> dict[str, dict[str, float]]:
    """Learning rates of all arms."""
    return choose_rates(ARMS, PLANS[scale].trainer, PLANS[scale].widen, report=report)


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms; projections of AdamW's gradients; and times."""
    plan, errors = PLANS[scale], ProjectionErrors()

    def watch(name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if name == "AdamW, one rate":
            errors.attach(model, optimizer, max(1, plan.size.steps // 10))

    courses = run_arms(ARMS, chosen, plan.trainer, seed, report=report, watch=watch)
    numbers = {
        f"{NAMES[basis]}: state over AdamW's": state_share(ARMS[f"{NAMES[basis]}, every step"], plan.size)
        for basis in ("svd", "dct2")
    }
    numbers |= {f"{BASES[basis]}: projection error, rank a quarter": errors.mean(basis, SHARES[-1]) for basis in BASES}
    numbers[TIME] = time_over_singular_vectors()
    found = measured(ARMS, courses, numbers)
    roles: dict[str, Role] = {"haar": "control", "random": "control"}
    curves = tuple(
        Curve(
            "projection",
            name,
            SHARES,
            tuple(errors.mean(basis, share) for share in SHARES),
            roles.get(basis, "measured"),
        )
        for basis, name in BASES.items()
    )
    return Measurement(found.numbers, (*found.curves, *curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def mean(key: str) -> float:
        return sum(m.numbers[key] for m in measurements) / len(measurements)

    higher = {
        calendar: sum(losses_of(measurements, f"cosines, {calendar}"))
        / sum(losses_of(measurements, f"singular vectors, {calendar}"))
        - 1
        for calendar in CALENDARS
    }
    worst, share = max(higher.values()), min(m.numbers[TIME] for m in measurements)
    control = gap(measurements, "random, every step", "cosines, every step")
    errors = ", ".join(f"{name} {mean(f'{name}: projection error, rank a quarter'):.2f}" for name in BASES.values())
    because = (
        f"With cosines the loss is {100 * higher['every 50 steps']:+.2f}% (every 50 steps) and {100 * higher['every step']:+.2f}% "
        f"(every step) from that with singular vectors (at most +1%, partly +3%). Picking takes {share:.2f} of the time (a third). A "
        f"random basis minus cosines: {in_words(control)} nats per byte. Relative errors of projections to a quarter of the width: "
        f"{errors}. "
        f"State over AdamW's: {100 * mean(f'singular vectors: {STATE}'):.0f}% with singular vectors, "
        f"{100 * mean(f'cosines: {STATE}'):.0f}% with cosines."
    )
    explained = "picking columns from any fixed orthogonal basis, cosines or not" if control.mean <= 0.005 else None
    if worst <= 0.01 and share <= 1 / 3:
        return Verdict("reproduced", because, explained)
    if worst <= 0.01:
        likely = "at this width eigenvectors of a Gram matrix are cheap too"
    elif worst <= 0.03:
        likely = "gradients have few strong directions, which cosines don't point to, and at a small rank that shows"
    else:
        likely = "gradients of a net this narrow have little structure along the index of a neuron, which cosines need"
    word: Word = "partly" if worst <= 0.03 else "not reproduced at this scale"
    return Verdict(word, f"{because} Likely reason: {likely}.", explained if word == "partly" else None)


STATE = "state over AdamW's"


@dataclass
class ProjectionErrors:
    """What of a training's gradients lies outside subspaces fitted to them: the norm over the gradient's, by basis and rank."""

    found: dict[tuple[str, float], list[float]] = field(default_factory=dict)

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer, every: int) -> None:
        """Look at the hidden matrices at every so many steps, the first one included."""
        matrices = [param for _, param in subspace_groups(model)[0]["params"]]
        steps = 0

        def look(*_: Any) -> None:
            nonlocal steps
            if steps % every == 0:
                for param in matrices:
                    self.add(param.grad.detach(), steps)
            steps += 1

        optimizer.register_step_pre_hook(look)

    def add(self, gradient: Tensor, seed: int) -> None:
        """One matrix, projected on its shorter side."""
        x = gradient if gradient.shape[0] >= gradient.shape[1] else gradient.mT
        for basis in BASES:
            for share in SHARES:
                rank = max(1, round(share * x.shape[1]))
                self.found.setdefault((basis, share), []).append(projection_error(x, basis, rank, seed))

    def mean(self, basis: str, share: float) -> float:
        """Over matrices and steps."""
        values = self.found[basis, share]
        return sum(values) / len(values)


def projection_error(x: Tensor, basis: str, rank: int, seed: int = 0) -> float:
    """The norm of what a fitted subspace of a rank leaves of a matrix, over the matrix's; rows are projected."""
    projector, stack = PROJECTORS[basis](), x[None].double()
    layout = projector.layout(x.shape[0], x.shape[1], rank)
    kept = {name: torch.zeros(1, *shape, dtype=dtype or stack.dtype) for name, (shape, dtype) in layout.items()}
    kept, low = projector.fit(stack, kept, torch.Generator().manual_seed(seed), 1)
    left = stack - projector.up(low, kept, stack)
    return (left.norm() / stack.norm().clamp(min=1e-30)).item()


def time_over_singular_vectors() -> float:
    """Time of picking 64 columns of :data:`SHAPE`, over that of its leading singular vectors, on one thread."""
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    projector = PROJECTORS["dct2"]()
    kept = {"columns": torch.zeros(1, 64, dtype=torch.int32)}
    ways: tuple[Callable[[], Any], ...] = (
        lambda: projector.fit(x, kept, torch.Generator(), 1),
        lambda: torch.linalg.svd(x, full_matrices=False),
        lambda: svd_basis(x, 64),
    )
    best = [float("inf")] * len(ways)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(6):  # the first one warms up
            for place, way in enumerate(ways):
                start = time.thread_time()
                way()
                best[place] = min(best[place], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best[0] / min(best[1:])
