"""Deep linear networks learn mode by mode as theory says, and orthogonal starts bound the delay that depth causes.

The claim of arXiv:1312.6120, in three parts: the course of learning on a task with known modes, the number of steps that
networks of 3 to 100 matrices need from four starts, and the Jacobian of deep tanh networks at their start (shown only).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.init import aligned_linear_, orthogonal_
from thalweg.linalg.linear_descent import DIVERGED, Descent, descend, descent_step_
from thalweg.linalg.linear_network import mode_trajectory
from thalweg.linalg.mode_flow import ModeFlow, mode_flow
from thalweg.probe import jacobian_singular_values, mode_strengths
from thalweg.tasks import deep_linear, white_digits
from thalweg.tasks.remembered import remembered

RULE = """\
Three things must hold.
1. Theory. On a task with three known levels of modes, an 8-8-7 network of aligned start follows the closed-form curve of
   every mode within 2% of its singular value in every seed (an Euler step of 0.01 alone accounts for about 0.6%). From
   a small random start, where theory is a prediction up to a shift in time, the largest distance from the shifted curve
   is at most 10% of the singular value in the median over modes and seeds, and in every seed all modes of a larger
   singular value are half learnt before any of a smaller one.
2. Finite delay. By theory a mode of start u0 needs a time that, counted in steps of 1 / (largest curvature that it passes),
   stays finite as depth grows: networks of any depth arrive within the steps of an infinitely deep one. At the largest
   depth they must do so, in the median over seeds, from an aligned start (u0 a tenth of the largest singular value, nine
   modes) and from an orthogonal one (u0 = 1, ten modes, one of which must be unlearnt; theory takes it as aligned).
   Steps are counted to 1% of the zero network's excess loss, at the learning rate that is best for that depth and start
   in the slowest of four other seeds.
3. Contrast. From a Gaussian start of variance 1 / fan-in the largest depth takes more than 5 times the steps of the
   smallest one, or doesn't arrive within the cap.
Reproduced: all three. Partly: one or two. Not reproduced: none. Not testable: one of the three starts doesn't arrive even
at the smallest depth. The Xavier start (a control) and the tanh networks decide nothing.
Second version. The first one asked in part 2 for at most 1.3 times the delay, over 3 matrices, that theory gives the
aligned start (2.6 times the steps), and gave "partly" on seeds 11 to 15: aligned 2.75, but orthogonal 6.1. It was wrong
to hold the orthogonal start to it: theory gives u0 = 1 a delay of 3.9, and at 3 matrices a large step does better than
the flow. It's replaced by the bound at infinite depth, which depends on no shallow network. After seeds 21 to 25
and 31 to 35 (both "reproduced") the choice of a rate where none arrives was mended, in favour of the Gaussian start: all
rates of the first grid diverged at the largest depth. New seeds each time."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=3),
    "cpu": Scale(seeds=(41, 42, 43, 44, 45), seconds=250),
    "gpu": Scale(seeds=(61, 62, 63, 64, 65, 66), seconds=900),
}

_TIME, _STRENGTH = "time (learning rate x steps)", "strength of the mode"
PANELS = (
    Panel("aligned", "Aligned start: every mode on its own curve", _TIME, _STRENGTH),
    Panel("random", "Small random start: same shape, in order", _TIME, _STRENGTH),
    Panel(
        "depth",
        "Steps to 1% of the excess loss",
        "weight matrices",
        "gradient steps (no point: over 300, at gpu scale over 1,000)",
        log="xy",
    ),
    Panel("course", "The deepest networks", "gradient steps", "excess loss / zero network's", log="y"),
    Panel("jacobian", "Jacobian of 30 tanh layers at the start", "gain", "largest over median singular value", log="y"),
)

STARTS = ("orthogonal", "aligned", "gaussian", "xavier")
TUNING_SEEDS = (1000, 1001, 1002, 1003)
LEVELS = {"s = 1": slice(0, 1), "s = 0.71": slice(1, 3), "s = 0.5": slice(3, 7)}


@dataclass(frozen=True)
class Size:
    width: int
    """Inputs, and units of every layer but the last."""
    depths: tuple[int, ...]
    cap: int
    grid: tuple[float, ...]
    """Exponents of ten of the learning rates tried first; the grid widens while its best one lies at an edge."""
    halvings: int
    """How often the spacing is then halved around the best one."""
    tanh_width: int
    tanh_inputs: int


SIZES = {
    "smoke": Size(64, (3, 10), 45, (0.5, 0.0, -0.5, -1.0), 0, 16, 2),
    "cpu": Size(64, (3, 10, 30, 100), 300, tuple(0.5 - k / 2 for k in range(10)), 3, 128, 8),
    # half of the paper's width of 1,000 (the digits have 653 components), and three times as long for what is slow
    "gpu": Size(500, (3, 10, 30, 100), 1000, tuple(0.5 - k / 2 for k in range(10)), 3, 500, 8),
}
ALIGNED_STRENGTH = 0.1
TOLERANCE = 0.01
GAINS = (0.9, 1.0, 1.05, 1.1, 1.3)
LR, STEPS, EVERY = 0.01, 1500, 10


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """The learning rate of every start and depth that arrives first, in the slowest of four tuning seeds."""
    size, lrs = SIZES[scale], {}
    work = [(start, depth) for depth in size.depths for start in STARTS]
    done = 0
    for start, depth in work:
        report(done / sum(d for _, d in work), f"tuning {start}, {depth} matrices")
        lrs[f"{start}/{depth}"] = _best_lr(start, depth, size)
        done += depth
    return {"lr": lrs}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All three parts with one seed."""
    size = SIZES[scale]
    report(0.0, "modes of a small network")
    numbers, curves = _against_theory(seed)
    report(0.1, "networks of several depths")
    steps, courses = _depth(size, seed, chosen["lr"])
    report(0.6, "tanh networks")
    spreads, lines = _tanh(size, seed)
    return Measurement(numbers | steps | spreads, (*curves, *courses, *lines))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def values(name: str) -> list[float]:
        return [m.numbers[name] for m in measurements]

    depths = sorted(int(name.split("/")[2]) for name in measurements[0].numbers if name.startswith("steps/orthogonal/"))
    shallow, deep = depths[0], depths[-1]
    unreached = [s for s in STARTS[:3] if math.isinf(statistics.median(values(f"steps/{s}/{shallow}")))]
    if unreached:
        return Verdict(
            "not testable at this scale",
            f"From the {' and '.join(unreached)} start even networks of {shallow} matrices don't arrive within the cap "
            "on steps, so there is no ratio to judge: a larger cap is needed.",
        )
    steps = {start: statistics.median(values(f"steps/{start}/{deep}")) for start in STARTS[:3]}
    bound = {start: statistics.median(values(f"steps at infinite depth, theory/{start}")) for start in STARTS[:2]}
    ratio = steps["gaussian"] / statistics.median(values(f"steps/gaussian/{shallow}"))
    aligned = max(values("aligned error"))
    random = statistics.median(values("random start error"))
    ordered = min(values("modes in order")) == 1
    theory = aligned <= 0.02 and random <= 0.1 and ordered
    bounded = all(steps[start] <= bound[start] for start in STARTS[:2])
    contrast = ratio > 5
    because = (
        f"Distance from theory {aligned:.2%} (at most 2%), {random:.1%} from a random start (at most 10%), modes "
        f"{'' if ordered else 'not '}in order; steps at {deep} matrices: orthogonal {steps['orthogonal']:.0f} (at most "
        f"{bound['orthogonal']:.0f}), aligned {steps['aligned']:.0f} (at most {bound['aligned']:.0f}), Gaussian "
        f"{'never' if math.isinf(ratio) else f'{ratio:.1f} times the steps at {shallow}'} (above 5 times, or never)."
    )
    held = sum((theory, bounded, contrast))
    if held == 3:
        return Verdict("reproduced", because)
    failed = {
        "the discrete step or the random start is too far from theory": theory,
        "the delay grows further with depth than theory says": bounded,
        "these depths are still easy for a Gaussian start": contrast,
    }
    likely = f" Likely reason: {'; '.join(why for why, holds in failed.items() if not holds)}."
    return Verdict("partly" if held else "not reproduced at this scale", because + likely)


def _against_theory(seed: int) -> tuple[dict[str, float], list[Curve]]:
    """An aligned and a small random start on the tree of eight items, beside their curves."""
    U, s, Vh = deep_linear.modes()
    draws = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(8, 8, bias=False, dtype=torch.float64), nn.Linear(8, 7, bias=False, dtype=torch.float64)]
    aligned_linear_(layers, U, Vh.mH, deep_linear.START, generator=draws)
    std = (deep_linear.START / 8) ** 0.5
    weights = [
        torch.stack([w, std * torch.randn(w.shape, generator=draws, dtype=w.dtype)])
        for w in (layer.weight.detach() for layer in layers)
    ]
    rows = []
    for _ in range(STEPS + 1):
        rows.append(mode_strengths(weights, U, Vh.mH))
        descent_step_(weights, U * s @ Vh, LR)
    measured = torch.stack(rows)
    t = LR * torch.arange(STEPS + 1, dtype=torch.float64)
    half = torch.tensor([[_crossing(t, measured[:, net, k], s[k] / 2) for k in range(7)] for net in (0, 1)])
    starts = [torch.full_like(s, deep_linear.START), s / (1 + (2 * s * half[1]).exp())]
    theory = torch.stack([torch.stack([_trajectory(s[k], u0[k], t) for k in range(7)], 1) for u0 in starts], 1)
    errors = ((measured - theory).abs() / s).amax(0)
    levels = [half[1, level] for level in LEVELS.values()]
    ordered = all(a.max() < b.min() for a, b in itertools.pairwise(levels))
    numbers = {
        "aligned error": errors[0].max().item(),
        "random start error": errors[1].median().item(),
        "modes in order": float(ordered),
    }
    numbers |= {f"half learnt, {name}": half[1, level].mean().item() for name, level in LEVELS.items()}
    curves = []
    for net, panel in enumerate(("aligned", "random")):
        for name, level in LEVELS.items():  # its first mode; in an aligned start the others coincide with it
            x, first = tuple(t[::EVERY].tolist()), (slice(None, None, EVERY), net, level.start)
            curves.append(Curve(panel, name, x, tuple(measured[first].tolist())))
            curves.append(Curve(panel, name, x, tuple(theory[first].tolist()), "theory"))
    return numbers, curves


def _trajectory(s: Tensor, u0: Tensor, t: Tensor) -> Tensor:
    """The closed form; a mode that was never half learnt has u0 = 0 and stays there."""
    return mode_trajectory(s.item(), u0.item(), t) if u0 > 0 else torch.zeros_like(t)


def _crossing(t: Tensor, course: Tensor, level: Tensor) -> float:
    """When ``course`` first reaches ``level``, between its samples by a straight line; infinite if never."""
    above = (course >= level).nonzero()
    if not len(above):
        return math.inf
    i = int(above[0])
    if i == 0:
        return t[0].item()
    share = (level - course[i - 1]) / (course[i] - course[i - 1])
    return (t[i - 1] + share * (t[i] - t[i - 1])).item()


def network(start: str, width: int, depth: int, seed: int) -> list[Tensor]:
    """Weights of a width-width-...-10 network, float32."""
    draws = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(width, width if i + 1 < depth else 10, bias=False) for i in range(depth)]
    if start == "orthogonal":
        orthogonal_(nn.Sequential(*layers), generator=draws)
    elif start == "aligned":
        U, s, V = white_digits.class_modes(width)
        aligned_linear_(layers, U, V, ALIGNED_STRENGTH * s[0].item(), generator=draws)
    else:
        for layer in layers:
            fan_out, fan_in = layer.weight.shape
            variance = 1 / fan_in if start == "gaussian" else 2 / (fan_in + fan_out)
            nn.init.normal_(layer.weight, std=variance**0.5, generator=draws)
    return [layer.weight.detach() for layer in layers]


def _train(start: str, size: Size, depth: int, seeds: tuple[int, ...], lrs: list[float]) -> Descent:
    """Every seed at every learning rate, seeds outermost."""
    U, s, V = white_digits.class_modes(size.width)
    nets = [network(start, size.width, depth, seed) for seed in seeds]
    weights = [torch.stack(same).repeat_interleave(len(lrs), 0) for same in zip(*nets, strict=True)]
    return descend(weights, (U * s @ V.mH).float(), torch.tensor(lrs * len(seeds)), tolerance=TOLERANCE, cap=size.cap)


def _best_lr(start: str, depth: int, size: Size) -> float:
    """The rate of fewest steps in the slowest tuning seed; where some seed never arrives, of least excess in the end.

    A seed that diverges counts with the excess at which it was given up, so that a rate of fewer such seeds is better.
    """

    def scores(exponents: list[float]) -> list[tuple[float, float]]:
        outcome = _train(start, size, depth, TUNING_SEEDS, [10**e for e in exponents])
        last = outcome.course[-1].nan_to_num(DIVERGED).where(outcome.steps.isinf(), 0.0)
        steps, last = (each.view(len(TUNING_SEEDS), -1) for each in (outcome.steps, last))
        return list(zip(steps.amax(0).tolist(), last.mean(0).tolist(), strict=True))

    return float(10 ** best_on_log_grid(scores, size.grid, halvings=size.halvings))


def _depth(size: Size, seed: int, lrs: Mapping[str, float]) -> tuple[dict[str, float], list[Curve]]:
    """Every start at every depth, beside theory's number of steps of 1 / (largest curvature)."""
    numbers, curves = {}, []
    for start in STARTS:
        role: Role = "control" if start == "xavier" else "measured"
        reached = []
        for depth in size.depths:
            outcome = _train(start, size, depth, (seed,), [lrs[f"{start}/{depth}"]])
            steps = numbers[f"steps/{start}/{depth}"] = outcome.steps.item()
            reached += [(depth, steps)] if math.isfinite(steps) else []
        curves += [Curve("depth", start, *_axes(reached), role)] if reached else []
        course = outcome.course[:, 0]
        curves.append(Curve("course", start, *_axes(list(enumerate(course[~course.isnan()].tolist()))), role))
    for start in STARTS[:2]:
        flows = {depth: _flow(start, size.width, depth) for depth in (*size.depths, math.inf)}
        cost = {depth: flow.times[-1].item() * flow.curvature for depth, flow in flows.items()}
        numbers[f"steps at infinite depth, theory/{start}"] = cost.pop(math.inf)
        curves.append(Curve("depth", start, *_axes(list(cost.items())), "theory"))
    deepest = size.depths[-1]  # an aligned start keeps to the flow even at the best rate; an orthogonal one leaves it
    flow = _flow("aligned", size.width, deepest)
    thin = slice(None, None, max(1, len(flow.times) // 100))
    x = flow.times[thin] / lrs[f"aligned/{deepest}"]
    curves.append(Curve("course", "aligned", tuple(x.tolist()), tuple(flow.excess[thin].tolist()), "theory"))
    return numbers, curves


@remembered
def _flow(start: str, width: int, depth: float) -> ModeFlow:
    """Theory's course to the same 1%; an orthogonal product has ten modes, so one of them must be unlearnt."""
    s = white_digits.class_modes(width)[1].cpu()  # a thousand steps of ten numbers are quicker there
    if start == "orthogonal":
        return mode_flow(torch.cat([s, s.new_zeros(1)]), 1.0, depth, tolerance=TOLERANCE)
    return mode_flow(s, ALIGNED_STRENGTH * s[0].item(), depth, tolerance=TOLERANCE)


def _axes(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x) for x, _ in points), tuple(float(y) for _, y in points)


def _tanh(size: Size, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """How unevenly 30 tanh layers pass gradients back: largest over median singular value, geometric mean over inputs."""
    x, _ = white_digits.white_digits(size.tanh_width)
    draws = torch.Generator().manual_seed(seed)
    picked = x[torch.randperm(len(x), generator=draws)[: size.tanh_inputs]]
    layers = [nn.Linear(size.tanh_width, size.tanh_width, dtype=torch.float64) for _ in range(30)]
    net = nn.Sequential(*[module for layer in layers for module in (layer, nn.Tanh())])
    numbers, curves = {}, []
    for start in ("orthogonal", "gaussian"):
        for gain in GAINS:
            orthogonal_(net, gain, generator=draws)
            if start == "gaussian":
                for layer in layers:
                    nn.init.normal_(layer.weight, std=gain * size.tanh_width**-0.5, generator=draws)
            values = jacobian_singular_values(net, picked)
            spread = (values[:, 0] / values.median(1).values).log().mean().exp().item()
            numbers[f"largest over median singular value/{start}/{gain}"] = spread
        curves.append(Curve("jacobian", start, GAINS, tuple(list(numbers.values())[-len(GAINS) :])))
    return numbers, curves
