"""Weight sharing and locality each save samples: convolutional, locally connected and fully connected nets on one patchy task.

The claim of arXiv:2403.15707, on its task: a signal of unknown sign in one of k noisy patches of d pixels.

The paper says that an LCN needs 10 to 20 times the samples of a CNN. Descent gives more here, Adam somewhat less (both are in the
verdict). The likely reason: of an LCN's filters some start opposite to the signal, each is pulled only by the images whose signal
lies in its patch, k times fewer than pull a CNN's filter, and all have 300 steps to turn round; Adam's steps don't shrink with the
pull. Needs of a CNN below 2
samples lie at the end of its grid, which starts at 1: what is given there is the grid's, and a ratio to it only a lower bound. Part 4
leaves such sizes out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.nn.patch_classifier import Sharing, local_signal_adaptivity, patch_responses, unit_filters
from thalweg.probe import sample_complexity
from thalweg.tasks.dynamic_signal import SignalImages, bayes_score, dynamic_signal, linear_error, oracle_error

RULE = """\
One-layer nets of unit-length filters with a soft threshold: one filter for all patches (CNN), one for each (LCN), or k over the
whole image (FCN). 300 full-batch steps of gradient descent, to which the theorem applies (Adam, which isn't rotation-equivariant,
is a control), on the logistic loss; the threshold is 0 for a third of them, then rises to its end. Learning rates are chosen on
other seeds; the end, of 0, 0.2 and 0.4, on other images (1,000; 4,000 at gpu scale) for each model and size: 0.4 leaves an FCN
silent on most. Noise 0.57 / sqrt(k), k = 8, 16 and d = 16, 32, 64; at gpu scale also k = 32 and d = 128, 256. A model's need is
the sample size from which on every larger one of a grid (CNN 1 to 32, LCN 16 to 512, FCN 32 to 512; at gpu scale up to 64, 4096
and 8192) has at most a target error, from the mean over seeds and problems, between grid points by a straight line in logarithms.
1. CNN < LCN < FCN for an error of 3% in every cell. At 3% an FCN ends at the best linear rule's 4.0%, so more than the grid's
   largest counts as larger (one cell goes on to 2048, at gpu scale to 16384); therefore 2 and 3, where a linear rule suffices.
2. LCN < FCN for 10% in every cell.
3. CNN < LCN < FCN for 3% at noise 0.4 / sqrt(k), k = d = 16, where the best linear rule's error is 0.6%, and the FCN gets there.
4. LCN over CNN, for 3%, is at least 1.5 times as large at k = 16 as at k = 8 (theory's k d / (k + d) gives 1.3 to 1.8, k alone
   2), in the geometric mean over the d where the CNN needs at least 2 at both: below, the grid says nothing. At gpu scale k goes
   on to 32, one doubling more, so 1.5^2 = 2.25 times is asked for (theory 2.0 to 3.7).
5. From d = 16 to 64 the LCN's need for 3% grows at least 2 times in the geometric mean over all k (in proportion to d: 4
   times; as the upper bound's k + d: 2.7 times). At gpu scale d goes on to 256, two doublings more, so 2^2 = 4 times (in proportion
   16 times, as k + d on average 8).
Reproduced: all. Partly: 1. Not reproduced: 1 fails. Not testable: a CNN doesn't get to 3%. Trial runs on other seeds gave 2 to 3 in
part 4 and 2.0 to 2.3 in part 5; its threshold is the one set before them.
Second version. The first one chose learning rates in the cell k = 8, d = 32 alone and gave "not reproduced" on seeds 11 to 13: order
in 5 of 6 cells, and an LCN at k = d = 16 that ended above 3%, also in part 3. Its rate, 0.1, was too small there: of the 16 filters
some start opposite to the signal, and each that hasn't turned round after 300 steps costs up to 1/16 of the images, whatever the
number of samples (one seed ended at 0.3%, others at 5% and 12%). Rates are now chosen over three cells, that one too, and at larger
samples; nothing else is changed but the seeds.
The second version's run gave "reproduced", with ratios of 36 and 114 in part 4, beyond the paper's 10 to 20; repeated on the same
seeds only to say in the verdict where these ratios are taken, which needs lie at the end of the CNN's grid, and what Adam gives."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=4),
    "cpu": Scale(seeds=(21, 22, 23), seconds=220),
    "gpu": Scale(seeds=(31, 32, 33, 34, 35), seconds=1000),
}

_N, _D, _ERROR = "samples", "pixels of a patch, d", "test error"
_NEED = "samples (1: the CNN's smallest size, or fewer)"
PANELS = (
    Panel("error", "8 patches of 32 pixels, noise 0.57 / sqrt(8)", _N, _ERROR, log="xy"),
    Panel("easier", "16 patches of 16 pixels, noise 0.4 / 4", _N, "test error (none at all: drawn at 1e-4)", log="xy"),
    Panel("adam", "As the first, trained by Adam", _N, _ERROR, log="xy"),
    Panel("few", "Samples for 10% error, 8 patches", _D, _NEED, log="xy"),
    Panel("many", "Samples for 10% error, 16 patches (32 at gpu scale)", _D, _NEED, log="xy"),
)

NAMES: dict[Sharing, str] = {"conv": "CNN", "local": "LCN", "full": "FCN"}
HARD, EASY = 0.57, 0.4
"""Noise times sqrt(k)."""
ENDS = (0.0, 0.2, 0.4)
TARGETS = (0.03, 0.10)
ADAM_LR = 0.03
SHOWN, EASIER = (8, 32), (16, 16)
TUNING_SEED = 1000
Make = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Size:
    patches: tuple[int, ...]
    dims: tuple[int, ...]
    easy: tuple[int, ...]
    """Patches at the lower noise, d = 16."""
    steps: int
    tests: int
    grids: Mapping[Sharing, tuple[int, ...]]
    problems: Mapping[Sharing, int]
    """Each seed's, with signals and images of their own; the larger the model, the less their errors differ."""
    tuning: Mapping[Sharing, tuple[int, ...]]
    """Sample sizes at which learning rates are judged,"""
    tuned: tuple[tuple[int, int], ...]
    """and the cells."""
    further: tuple[int, ...]
    """Sizes added for the FCN in the cell that is shown, to see where it ends."""


SIZES = {
    "smoke": Size(
        (8, 16),
        (16, 32),
        (16,),
        30,
        200,
        {"conv": (2, 8, 32), "local": (16, 64, 256), "full": (32, 256)},
        {"conv": 2, "local": 1, "full": 1},
        {"conv": (8,), "local": (64,), "full": (64,)},
        (SHOWN,),
        (),
    ),
    "cpu": Size(
        (8, 16),
        (16, 32, 64),
        (4, 16),
        300,
        1000,
        {
            "conv": (1, 2, 4, 8, 16, 32),
            "local": (16, 32, 64, 128, 256, 512),
            "full": (32, 64, 128, 256, 512),
        },
        {"conv": 4, "local": 2, "full": 1},
        {"conv": (2, 8), "local": (64, 512), "full": (64, 512)},
        (SHOWN, (16, 16), (16, 64)),
        (1024, 2048),
    ),
    # 16 times the largest FCN (twice the patches of four times the pixels), for which theory asks 8 times the samples
    "gpu": Size(
        (8, 16, 32),
        (16, 32, 64, 128, 256),
        (4, 16),
        300,
        4000,
        {
            "conv": (1, 2, 4, 8, 16, 32, 64),
            "local": (16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
            "full": (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
        },
        {"conv": 8, "local": 4, "full": 1},
        {"conv": (2, 8), "local": (64, 512, 4096), "full": (64, 512, 4096)},
        (SHOWN, (16, 16), (16, 64), (32, 16), (32, 256)),
        (16384,),
    ),
}


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """The learning rate of each model with the lowest logarithm of the error, mean over cells and sizes, on other problems."""
    size, lrs = SIZES[scale], {}
    for i, sharing in enumerate(NAMES):
        report(i / 3, f"tuning the {NAMES[sharing]}")

        def scores(exponents: list[float], sharing: Sharing = sharing) -> list[float]:
            found = []
            for e in exponents:
                errors = []
                for k, d in size.tuned:
                    errors += _errors(size, size.tuning[sharing], sharing, k, d, HARD, TUNING_SEED, _descent(10**e))[0]
                found.append(statistics.fmean(math.log(max(error, 1e-3)) for error in errors))
            return found

        lrs[sharing] = float(10 ** best_on_log_grid(scores, (-0.5, 0.0, 0.5, 1.0)))
    return {"lr": lrs}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All cells with one seed's problems."""
    size = SIZES[scale]
    cells = [(HARD, k, d) for k in size.patches for d in size.dims] + [(EASY, k, EASIER[1]) for k in size.easy]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    for i, (noise, k, d) in enumerate(cells):
        for sharing, name in NAMES.items():
            report(0.9 * i / len(cells), f"{name}, {k} patches of {d} pixels")
            more = size.further if sharing == "full" and (noise, k, d) == (HARD, *SHOWN) else ()
            grid = (*size.grids[sharing], *more)
            errors, bayes = _errors(size, grid, sharing, k, d, noise, seed, _descent(chosen["lr"][sharing]))
            numbers |= {_key(sharing, noise, k, d, n): e for n, e in zip(grid, errors, strict=True)}
            if sharing == "conv":
                numbers[f"Bayes/{noise:g}/{k}/{d}"] = bayes
            panel = {(HARD, *SHOWN): "error", (EASY, *EASIER): "easier"}.get((noise, k, d))
            curves += [_curve(panel, name, grid, errors)] if panel else []
    for i, (sharing, name) in enumerate(NAMES.items()):
        report(0.9 + 0.03 * i, f"{name} by Adam")
        errors, _ = _errors(size, size.grids[sharing], sharing, *SHOWN, HARD, seed, _adam)
        numbers |= {
            f"Adam/{_key(sharing, HARD, *SHOWN, n)}": e for n, e in zip(size.grids[sharing], errors, strict=True)
        }
        curves.append(_curve("adam", name, size.grids[sharing], errors, "control"))
    return Measurement(numbers, (*curves, *_theory(size), *_needs(size, numbers)))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    numbers = {name: statistics.fmean(m.numbers[name] for m in measurements) for name in measurements[0].numbers}
    places = [name.split("/") for name in numbers if name.startswith(f"conv/{HARD:g}/")]
    cells = sorted({(int(place[2]), int(place[3])) for place in places})

    def need(sharing: Sharing, k: int, d: int, target: float = TARGETS[0], noise: float = HARD) -> float:
        return _need(numbers, sharing, noise, k, d, target)

    silent = [cell for cell in cells if math.isinf(need("conv", *cell))]
    if silent:
        where = ", ".join(f"{k} x {d}" for k, d in silent)
        return Verdict(
            "not testable at this scale",
            f"CNNs don't get to 3% in {where}. Likely reason: too few samples or steps.",
        )
    ordered = [need("conv", *c) < need("local", *c) < need("full", *c) for c in cells]
    loose = [need("local", *c, TARGETS[1]) < need("full", *c, TARGETS[1]) for c in cells]
    easy = [need(sharing, *EASIER, noise=EASY) for sharing in NAMES]
    ks, ds = sorted({k for k, _ in cells}), sorted({d for _, d in cells})
    few, many = ks[0], ks[-1]
    measured = [d for d in ds if min(need("conv", few, d), need("conv", many, d)) >= 2]
    ratio = {k: _geometric([need("local", k, d) / need("conv", k, d) for d in measured]) for k in (few, many)}
    doublings = math.log2(many / few), math.log2(ds[-1] / ds[0])
    least_gain, least_growth = 1.5 ** doublings[0], 2 ** (doublings[1] / 2)
    sharing_gain = ratio[many] / ratio[few] if measured and math.isfinite(ratio[few]) else 0.0
    growth = _geometric(
        [need("local", k, ds[-1]) / need("local", k, ds[0]) for k in ks if math.isfinite(need("local", k, ds[0]))]
    )
    holds = {
        "the order of needs isn't theory's": all(ordered),
        "where a linear rule suffices an FCN needs no more": all(loose),
        "at lower noise the order isn't theory's": easy[0] < easy[1] < easy[2] < math.inf,
        "the CNN's needs are too small to tell how sharing pays with k"
        if not measured
        else "sharing pays too little with k": sharing_gain >= least_gain,
        "an LCN's need grows more slowly than theory says at so small d": least_growth <= growth < math.inf,
    }
    at_end = sum(need("conv", *c, t) <= _smallest(numbers, "conv", *c) for c in cells for t in TARGETS)
    sampled = [f"{need('conv', k, d):.1f}" for k in (few, many) for d in measured]
    because = (
        f"CNN < LCN < FCN at 3% in {sum(ordered)} of {len(ordered)} cells, LCN < FCN at 10% in {sum(loose)}; at lower noise "
        f"{', '.join(_words(n) for n in easy)} samples; LCN over CNN {ratio[few]:.0f} at {few} patches and {ratio[many]:.0f} "
        f"at {many}, {sharing_gain:.1f} times ({least_gain:.3g}); LCN's need grows {growth:.1f} times from d = {ds[0]} to {ds[-1]} "
        f"({least_growth:.3g}). The ratios are those at d = {', '.join(map(str, measured)) or 'none'}, where a CNN needs "
        f"{', '.join(sampled) or 'too few'} samples;{_by_adam(numbers)} "
        f"{at_end} of {len(TARGETS) * len(cells)} needs of a CNN are its grid's smallest size, and so upper bounds."
    )
    if all(holds.values()):
        return Verdict("reproduced", because)
    likely = f" Likely reason: {'; '.join(why for why, held in holds.items() if not held)}."
    return Verdict("partly" if all(ordered) else "not reproduced at this scale", because + likely)


def _descent(lr: float) -> Make:
    return partial(torch.optim.SGD, lr=lr)


def _adam(weights: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, lr=ADAM_LR, fused=True)


def _errors(
    size: Size, grid: Sequence[int], sharing: Sharing, k: int, d: int, noise: float, seed: int, make: Make
) -> tuple[list[float], float]:
    """Mean test error over a seed's problems at every sample size, each at the best end of the threshold, and the Bayes rule's."""
    draws = torch.Generator().manual_seed(seed * 1000 + k * 100 + d)
    sigma, problems = noise / k**0.5, size.problems[sharing]
    train = dynamic_signal(max(grid), k, d, sigma, problems=(problems,), generator=draws)
    more = partial(dynamic_signal, size.tests, k, d, sigma, signal=train.signal, problems=(problems,), generator=draws)
    valid, test = more(), more()
    fan_in = k * d if sharing == "full" else d
    shape = {"conv": (d,), "local": (k, d), "full": (k, k, d)}[sharing]
    start = torch.randn(problems, 1, *shape, generator=draws) / fan_in**0.5
    found = []
    for n in grid:
        weight = _train(train.x[:, :n], train.y[:, :n], start, sharing, size.steps, make)
        best = _mistakes(weight, valid, sharing).mean(0).argmin()
        found.append(_mistakes(weight, test, sharing)[:, best].mean().item())
    bayes = (bayes_score(test.x, test.signal, sigma) * test.y < 0).double().mean().item()
    return found, bayes


def _train(x: Tensor, y: Tensor, start: Tensor, sharing: Sharing, steps: int, make: Make) -> Tensor:
    """Filters of all problems and ends of the threshold, ``(problems, ends, ...)``, in one go; their losses are added."""
    weight = start.repeat(1, len(ENDS), *[1] * (start.dim() - 2)).requires_grad_()
    log_scale = torch.zeros(len(x), len(ENDS), 1, requires_grad=True)
    ends, x = torch.tensor(ENDS).view(-1, 1, 1), x.contiguous()
    optimizer = make([weight, log_scale])
    for step in range(steps):
        risen = min(1.0, max(0.0, 3 * step / steps - 1))
        f = log_scale.exp() * _outputs(x, weight, sharing, risen * ends)
        optimizer.zero_grad()
        F.softplus(-y.unsqueeze(1) * f).mean(-1).sum().backward()
        optimizer.step()
    return weight.detach()


def _outputs(x: Tensor, weight: Tensor, sharing: Sharing, threshold: Tensor) -> Tensor:
    """:class:`thalweg.nn.PatchClassifier` without its scale, for many at once."""
    return local_signal_adaptivity(patch_responses(x, unit_filters(weight, sharing), sharing), threshold).sum(-1)


def _mistakes(weight: Tensor, images: SignalImages, sharing: Sharing) -> Tensor:
    """Share of wrong signs, 0 counted as half wrong, ``(problems, ends)``."""
    right = _outputs(images.x, weight, sharing, torch.tensor(ENDS).view(-1, 1, 1)) * images.y.unsqueeze(1)
    return ((right < 0).double() + (right == 0).double() / 2).mean(-1)


def _key(sharing: Sharing, noise: float, k: int, d: int, n: int) -> str:
    return f"{sharing}/{noise:g}/{k}/{d}/{n}"


def _need(numbers: Mapping[str, float], sharing: Sharing, noise: float, k: int, d: int, target: float) -> float:
    prefix = f"{sharing}/{noise:g}/{k}/{d}/"
    errors = {int(name.removeprefix(prefix)): e for name, e in numbers.items() if name.startswith(prefix)}
    sizes = sorted(errors)
    return sample_complexity(sizes, [max(errors[n], 1e-4) for n in sizes], target, interpolate=True)


def _smallest(numbers: Mapping[str, float], sharing: Sharing, k: int, d: int) -> int:
    """The smallest sample size of the grid."""
    prefix = f"{sharing}/{HARD:g}/{k}/{d}/"
    return min(int(name.removeprefix(prefix)) for name in numbers if name.startswith(prefix))


def _by_adam(numbers: Mapping[str, float]) -> str:
    """The LCN's need over the CNN's for 3% in the cell that is shown, by descent and by Adam."""
    adam = {name.removeprefix("Adam/"): error for name, error in numbers.items() if name.startswith("Adam/")}
    if not adam:
        return ""
    ratios = []
    for errors in (numbers, adam):
        conv, local = (_need(errors, sharing, HARD, *SHOWN, TARGETS[0]) for sharing in ("conv", "local"))
        ratios.append(f"{local / conv:.0f}" if math.isfinite(conv) else "no ratio")
    return f" in the cell of {SHOWN[0]} x {SHOWN[1]} descent gives {ratios[0]} and Adam {ratios[1]};"


def _geometric(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if values else 0.0


def _words(need: float) -> str:
    return "never" if math.isinf(need) else f"{need:.0f}"


def _curve(panel: str, label: str, grid: Sequence[int], errors: Sequence[float], role: Role = "measured") -> Curve:
    return Curve(panel, label, tuple(map(float, grid)), tuple(max(e, 1e-4) for e in errors), role)


def _theory(size: Size) -> list[Curve]:
    """What the best linear rule and a CNN that knows the signal err, and the bounds on needs without their constants."""
    curves = []
    for panel, noise, (k, _) in (("error", HARD, SHOWN), ("easier", EASY, EASIER), ("adam", HARD, SHOWN)):
        x = (
            float(size.grids["conv"][0]),
            float((*size.grids["full"], *size.further)[-1] if panel == "error" else size.grids["full"][-1]),
        )
        sigma = noise / k**0.5
        curves.append(Curve(panel, "best linear rule", x, (linear_error(k, sigma),) * 2, "theory"))
        oracle = min(oracle_error(k, sigma, b) for b in ENDS)
        if oracle > 1e-4:
            curves.append(Curve(panel, "CNN that knows the signal", x, (oracle,) * 2, "theory"))
    dims = tuple(map(float, size.dims))
    for panel, k in (("few", size.patches[0]), ("many", size.patches[-1])):
        laws = {"CNN": [k + d for d in dims], "LCN": [k * d for d in dims], "FCN": [k * k * d for d in dims]}
        for name, law in laws.items():
            scaled = tuple(HARD**2 / k * value for value in law)
            curves.append(Curve(panel, f"{name}, noise variance x {LAWS[name]}", dims, scaled, "theory"))
    return curves


LAWS = {"CNN": "(k + d)", "LCN": "k d", "FCN": "k k d"}


def _needs(size: Size, numbers: Mapping[str, float]) -> list[Curve]:
    """This seed's own needs for an error of 10%, where the grid reaches it."""
    curves = []
    for panel, k in (("few", size.patches[0]), ("many", size.patches[-1])):
        for sharing, name in NAMES.items():
            points = [(float(d), _need(numbers, sharing, HARD, k, d, TARGETS[1])) for d in size.dims]
            kept = [(d, n) for d, n in points if math.isfinite(n)]
            if kept:
                curves.append(Curve(panel, name, tuple(d for d, _ in kept), tuple(n for _, n in kept)))
    return curves
