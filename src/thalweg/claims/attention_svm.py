"""One softmax attention layer, trained without end, points where a support vector machine over its tokens points.

The claim of arXiv:2308.16898, on its random data: training the product W of keys and queries leads to the machine of least
Frobenius norm, training the factors to that of least nuclear norm; and more dimensions than inputs make training pick the
best tokens more often.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.linalg import InfeasibleError
from thalweg.solve import AttentionPath, AttentionSVM, attention_svm, locally_optimal, normalized_attention_descent

RULE = """\
Each seed draws several problems: 6 inputs of 8 tokens in 10 dimensions (at gpu scale 20 inputs in 32), tokens, queries and head
uniform on the unit sphere, labels random. Normalized descent trains W, and its factors from small random ones. A direction is
compared with the support vector machine (SVM) of the tokens that this very training selected, by the cosine of the matrices,
mean over all problems:
1. training W: at least 0.99 with the SVM of least Frobenius norm, and more than with that of least nuclear norm;
2. training the factors: at least 0.97 with the SVM of least nuclear norm, and more than with that of least Frobenius norm.
(The paper: about 1; the factors converge more slowly, and a trial run on another seed gave 0.999 and 0.980, against 0.87 and
0.84 with the other machine.) Both SVMs exist for at least 90% of the problems, or there is nothing to compare with.
Reproduced: 1 and 2. Partly: 1 alone. Not reproduced: 1 fails. Not testable: the SVMs don't exist.
Second version: the same parts and thresholds, new seeds (1 to 3 gave 0.981 in part 2, "reproduced"), and a control that decides
nothing: why not 0.996 and more, as others find? The authors' code adds a weight decay of 2.2e-16 to the loss of the factors, against
gradients that underflow. Ours don't, but in a trial on another seed that decay alone took the cosine after 4000 steps from 0.964 to
0.996, and 32,000 steps without it only to 0.975: what decays forgets where it came from. So the control trains the factors with it."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=4),
    "cpu": Scale(seeds=(4, 5, 6), seconds=75),
    "gpu": Scale(seeds=(101, 102, 103, 104), seconds=1200),
}

PANELS = (
    Panel("direction", "Weights turn towards their own machine", "training steps", "1 - cosine", log="xy"),
    Panel("margins", "Margins at the machine's length", "training steps", "least margin"),
    Panel("spectrum", "Factors learn fewer directions", "singular value, by rank", "share of the largest"),
    Panel("width", "More dimensions, better tokens", "dimensions", "share of the problems", log="x"),
)

INPUTS, TOKENS, DIM = 6, 8, 10
LR, POINTS = 0.1, 20
DECAY = 2.2e-16
"""Of the factors, in the control."""


@dataclass(frozen=True)
class Size:
    problems: int
    steps: int
    """For W."""
    factor_steps: int
    widths: tuple[int, ...]
    gap: float
    """Of the nuclear SVM."""
    inputs: int = INPUTS
    dim: int = DIM


SIZES = {
    "smoke": Size(2, 300, 600, (4, 10), 1e-3),
    "cpu": Size(8, 2000, 4000, (4, 6, 10, 20), 1e-5),
    # As many problems as the paper's averages take, 100 in all, with three times its inputs and dimensions.
    "gpu": Size(25, 6000, 20_000, (8, 16, 32, 64), 1e-4, inputs=20, dim=32),
}


@dataclass(frozen=True)
class Problems:
    """A batch of data sets: tokens, queries, labels and heads."""

    X: Tensor
    z: Tensor
    y: Tensor
    v: Tensor

    def scores(self) -> Tensor:
        """What attending to a token is worth, ``(problems, n, T)``."""
        return self.y.unsqueeze(-1) * (self.X @ self.v[:, None, :, None]).squeeze(-1)


def run(scale: str, seed: int, *, report: Report) -> Measurement:
    """Train both ways on the same problems, solve the machines of what was selected, compare."""
    size = SIZES[scale]
    draws = torch.Generator().manual_seed(seed)
    problems = _draw(size.problems, size.dim, draws, size.inputs)
    factors = tuple(
        0.1 * torch.randn(size.problems, size.dim, size.dim, generator=draws, dtype=torch.float64) for _ in range(2)
    )
    data = problems.X, problems.z, problems.y, problems.v
    report(0.0, "training W")
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    paths = {"W": normalized_attention_descent(*data, lr=LR, steps=size.steps, record=POINTS)}
    report(0.2, "training its factors")
    paths["factors"] = normalized_attention_descent(
        *data, lr=LR, steps=size.factor_steps, factors=(factors[0], factors[1]), record=POINTS
    )
    for i, (name, path) in enumerate(paths.items()):
        report(0.4 + 0.15 * i, f"solving the machines of {name}")
        some_numbers, some_curves = _compare(name, path, problems, size)
        numbers |= some_numbers
        curves += some_curves
    report(0.75, "its factors with a decay")
    some_numbers, some_curves = _decayed(problems, (factors[0], factors[1]), size)
    numbers |= some_numbers
    curves += some_curves
    report(0.85, "other dimensions")
    curves += _widths(size, draws)
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def mean(name: str) -> float:
        return statistics.mean(m.numbers[name] for m in measurements)

    exist = min(mean("feasible/W"), mean("feasible/factors"))
    if exist < 0.9:
        return Verdict(
            "not testable at this scale",
            f"The SVMs exist for {exist:.0%} of the problems (at least 90%). Likely reason: too few dimensions.",
        )
    whole, whole_cross = mean("cosine, Frobenius/W"), mean("cosine, nuclear/W")
    parts, parts_cross = mean("cosine, nuclear/factors"), mean("cosine, Frobenius/factors")
    because = (
        f"Training W: cosine {whole:.4f} with the Frobenius SVM of its tokens (at least 0.99), {whole_cross:.3f} with the "
        f"nuclear one; training factors: {parts:.4f} with the nuclear SVM (at least 0.97), {parts_cross:.3f} with the other. With a "
        f"weight decay of {DECAY:g}, as the authors' code has it, {mean('cosine, nuclear/decay'):.4f}."
    )
    first, second = whole >= 0.99 and whole > whole_cross, parts >= 0.97 and parts > parts_cross
    if first and second:
        return Verdict("reproduced", because)
    if first:
        return Verdict("partly", because + " Likely reason: the factors' direction has not converged yet.")
    return Verdict(
        "not reproduced at this scale", because + " Likely reason: too few steps for the direction to converge."
    )


def _draw(problems: int, dim: int, draws: torch.Generator, inputs: int = INPUTS) -> Problems:
    def sphere(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, dim, generator=draws, dtype=torch.float64)
        return drawn / drawn.norm(dim=-1, keepdim=True)

    X, z, v = sphere(problems, inputs, TOKENS), sphere(problems, inputs), sphere(problems)
    return Problems(X, z, torch.randint(2, (problems, inputs), generator=draws).double() * 2 - 1, v)


def _compare(name: str, path: AttentionPath, problems: Problems, size: Size) -> tuple[dict[str, float], list[Curve]]:
    """A training's direction against both machines of the tokens that it selected."""
    kept, flat, nuclear, local = [], [], [], []
    for p in range(size.problems):
        try:
            solved = _machines(problems, p, path.selected[p], size.gap)
        except InfeasibleError:
            continue
        kept.append(p)
        flat.append(solved[0].W)
        nuclear.append(solved[1].W)
        local.append(locally_optimal(path.selected[p], problems.scores()[p], solved[0].support))
    numbers = {f"feasible/{name}": len(kept) / size.problems}
    if not kept:
        return numbers | dict.fromkeys((f"cosine, Frobenius/{name}", f"cosine, nuclear/{name}"), -1.0), []
    own = {"Frobenius": torch.stack(flat), "nuclear": torch.stack(nuclear)}
    course, final = path.course[1:, kept], path.W[kept]
    best = (path.selected == problems.scores().argmax(-1)).all(-1)
    numbers |= {f"cosine, {kind}/{name}": _cosine(final, W).mean().item() for kind, W in own.items()}
    numbers |= {
        f"cosine, least/{name}": _cosine(final, own["Frobenius" if name == "W" else "nuclear"]).min().item(),
        f"cosine of the machines/{name}": _cosine(own["Frobenius"], own["nuclear"]).mean().item(),
        f"cosine of the first step with the machine/{name}": _cosine(course[0], own["Frobenius"]).mean().item(),
        f"all tokens best/{name}": best.double().mean().item(),
        f"locally best/{name}": statistics.mean(map(float, local)),
        f"least softmax/{name}": path.mass.min().item(),
        f"length/{name}": torch.linalg.matrix_norm(path.W).mean().item(),
        f"rank/{name}": _numerical_rank(final),
        f"rank of the Frobenius machine/{name}": _numerical_rank(own["Frobenius"]),
        f"rank of the nuclear machine/{name}": _numerical_rank(own["nuclear"]),
    }
    x = tuple(map(float, path.steps[1:]))
    lines: list[tuple[str, str, Role]] = [("Frobenius", "own", "measured"), ("nuclear", "other", "control")]
    if name == "factors":
        lines = [("nuclear", "own", "measured"), ("Frobenius", "other", "control")]
    curves = []
    for kind, whose, role in lines:
        far = 1 - torch.stack([_cosine(W, own[kind]) for W in course]).mean(1)
        curves.append(Curve("direction", f"{name}, {whose} machine", x, tuple(far.clamp(min=1e-12).tolist()), role))
    mine = own[lines[0][0]]
    length = torch.linalg.matrix_norm(mine) / torch.linalg.matrix_norm(course)
    reached = [_least_margin(W, problems, kept, path.selected) for W in course * length[..., None, None]]
    curves += [
        Curve("margins", name, x, tuple(margin.mean().item() for margin in reached)),
        Curve("margins", "the machine's", (x[0], x[-1]), (1.0, 1.0), "theory"),
    ]
    ranks = tuple(float(k + 1) for k in range(final.shape[-1]))
    curves.append(Curve("spectrum", name, ranks, _spectrum(final)))
    curves.append(Curve("spectrum", name, ranks, _spectrum(mine), "theory"))
    return numbers, curves


def _decayed(problems: Problems, factors: tuple[Tensor, Tensor], size: Size) -> tuple[dict[str, float], list[Curve]]:
    """The control: the same factors, trained with a decay, against the nuclear machine of the tokens that they select."""
    path = normalized_attention_descent(
        problems.X,
        problems.z,
        problems.y,
        problems.v,
        lr=LR,
        steps=size.factor_steps,
        factors=factors,
        decay=DECAY,
        record=POINTS,
    )
    kept, solved = [], []
    for p in range(size.problems):
        try:
            solved.append(_machines(problems, p, path.selected[p], size.gap)[1].W)
        except InfeasibleError:
            continue
        kept.append(p)
    if not kept:
        return {"cosine, nuclear/decay": -1.0}, []
    machines = torch.stack(solved)
    far = 1 - torch.stack([_cosine(W, machines) for W in path.course[1:, kept]]).mean(1)
    x = tuple(map(float, path.steps[1:]))
    return (
        {"cosine, nuclear/decay": 1 - far[-1].item(), "length/decay": torch.linalg.matrix_norm(path.W).mean().item()},
        [Curve("direction", "factors with a decay", x, tuple(far.clamp(min=1e-12).tolist()), "control")],
    )


def _machines(problems: Problems, p: int, selected: Tensor, gap: float) -> tuple[AttentionSVM, AttentionSVM]:
    X, z = problems.X[p], problems.z[p]
    return attention_svm(X, z, selected), attention_svm(X, z, selected, "nuc", tol=gap)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(first.flatten(-2), second.flatten(-2), dim=-1)


def _least_margin(W: Tensor, problems: Problems, kept: list[int], selected: Tensor) -> Tensor:
    logits = (problems.X[kept] @ (W.unsqueeze(1) @ problems.z[kept].unsqueeze(-1))).squeeze(-1)
    chosen = selected[kept].unsqueeze(-1)
    ahead = logits.gather(-1, chosen) - logits
    return ahead.scatter(-1, chosen, torch.inf).amin((-2, -1))


def _spectrum(matrices: Tensor) -> tuple[float, ...]:
    values = torch.linalg.svdvals(matrices)
    return tuple((values / values[:, :1]).mean(0).tolist())


def _numerical_rank(matrices: Tensor) -> float:
    """Singular values above 1% of the largest, mean over the problems."""
    values = torch.linalg.svdvals(matrices)
    return (values > 0.01 * values[:, :1]).double().sum(-1).mean().item()


def _widths(size: Size, draws: torch.Generator) -> list[Curve]:
    """For how many problems the machine of the best tokens exists, and for how many training W selects all of them."""
    exists, best = [], []
    for width in size.widths:
        problems = _draw(2 * size.problems, width, draws, size.inputs)
        path = normalized_attention_descent(
            problems.X, problems.z, problems.y, problems.v, lr=LR, steps=size.steps // 2
        )
        wanted = problems.scores().argmax(-1)
        best.append((path.selected == wanted).all(-1).double().mean().item())
        exists.append(statistics.mean(_separable(problems.X[p], problems.z[p], wanted[p]) for p in range(len(wanted))))
    x = tuple(map(float, size.widths))
    return [
        Curve("width", "training selects the best tokens", x, tuple(best)),
        Curve("width", "their machine exists", x, tuple(exists), "theory"),
    ]


def _separable(X: Tensor, z: Tensor, selected: Tensor) -> float:
    try:
        attention_svm(X, z, selected)
    except InfeasibleError:
        return 0.0
    return 1.0
