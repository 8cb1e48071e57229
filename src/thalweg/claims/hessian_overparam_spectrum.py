"""The Hessian of a trained network: a bulk at zero that grows with the width, and about as many outliers as classes.

The claim of arXiv:1706.04454, on Gaussian clusters (every eigenvalue) and on MNIST digits (the largest, and the path between
solutions of small and of large batches).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Scale, Verdict
from thalweg.probe import barrier, count_outliers, gauss_newton_eigenvalues, hessian_eigenvalues, linear_path
from thalweg.tasks.gaussian_clusters import gaussian_clusters
from thalweg.tasks.white_digits import white_digits

RULE = """\
Networks of one hidden tanh layer (20 units unless said), mean cross-entropy, on 300 points in 20 dimensions around k centres
(separation 1, noise 0.5), trained by gradient descent (learning rate 0.1) until the loss is first at most 0.03. Four things must
hold.
1. Count: the largest relative gap among the eigenvalues 2 to 2k (those above a twentieth of the top one) comes after k - 1 or k of
   them in at least 75% of the cells of k = 2, 4, 6, 10 (at gpu scale 2 to 8, 10, 15 and 20) and the seeds. Any wider tolerance
   would let k = 2 pass always.
2. Width, k = 4: from 20 to 120 hidden units, 6 times the parameters (at gpu scale to 360, 18 times), the mean of the k largest
   eigenvalues changes by less than 35% at equal loss, and the share of eigenvalues below a thousandth of the top one grows, in
   the median.
3. Data: from separation 0.25 to 1 the top eigenvalue changes more than twofold, after 90 steps each, in the median. (At
   equal loss it would hardly move.)
4. Path: on 1,000 digits (30 principal components, 32 hidden units; at gpu scale 5,000, 50 and 48), the straight line from the
   solution of batches of 10 to that of batches of 500, same start and both at a loss of 0.05, rises above its ends by less than
   10% of the loss at the start, in the median.
Reproduced: all. Partly: two or three. Not reproduced: otherwise. Theory in the figure is the Gauss-Newton part of the Hessian, which
the outliers should come from. Random labels are a control.
Second version: the same parts and thresholds, new seeds, and a control to part 2 that decides nothing. The first one, on seeds 11 to
15, gave "partly": outliers grew with the width by 86% (and part 1 failed). The same networks are now also trained with the factor
sqrt(20 / width) outside the readout instead of in its first weights. They compute the same at the start, but no more readout weights
move the output further. If outliers then don't grow either, the parametrization decides, not the number of parameters. (Trials on
another seed: 101% more in torch's parametrization, 34% less with the factor outside.)"""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=4),
    "cpu": Scale(seeds=(31, 32, 33, 34, 35), seconds=160),
    "gpu": Scale(seeds=(21, 22, 23, 24, 25, 26), seconds=800),
}

PANELS = (
    Panel("spectrum", "Largest eigenvalues, 4 clusters", "place", "eigenvalue", log="xy"),
    Panel("gaps", "Where the gap is", "clusters", "eigenvalues before the largest gap"),
    Panel("width", "More hidden units, same loss", "hidden units", "eigenvalue", log="xy"),
    Panel("bulk", "Share of eigenvalues near zero", "hidden units", "share below top / 1000", log="x"),
    Panel("separation", "Clusters farther apart, 90 steps", "separation", "top eigenvalue", log="xy"),
    Panel("path", "Digits: from batches of 10 to batches of 500", "share of the way", "training loss", log="y"),
    Panel("digits", "Digits: largest eigenvalues", "place", "eigenvalue", log="y"),
)

DIM, POINTS, LR, LOSS, PATH_LOSS, STEPS = 20, 300, 0.1, 0.03, 0.05, 90
HIDDEN, CLUSTERS = 20, 4


@dataclass(frozen=True)
class Size:
    clusters: tuple[int, ...]
    widths: tuple[int, ...]
    digits: int
    epochs: int
    random_steps: int
    """Most steps on random labels."""
    components: int = 30
    """Inputs of the digits' network,"""
    hidden: int = 32
    """and its units."""


SIZES = {
    "smoke": Size((2, 4), (10, 20, 30), 100, 5, 50),
    "cpu": Size((2, 4, 6, 10), (10, 20, 60, 120), 1000, 3000, 6000),
    # more numbers of classes, all eigenvalues of 9,004 parameters for 300 points, and all digits with more of their variance
    "gpu": Size((2, 3, 4, 5, 6, 7, 8, 10, 15, 20), (10, 20, 60, 120, 360), 5000, 3000, 20_000, 50, 48),
}
SEPARATIONS = (0.25, 0.5, 1.0, 2.0)


def run(scale: str, seed: int, *, report: Report) -> Measurement:
    """All parts with one seed."""
    size = SIZES[scale]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    for part, (done, doing) in (
        (_counts, (0.0, "clusters")),
        (_widths, (0.15, "widths")),
        (_data, (0.7, "separations")),
    ):
        report(done, doing)
        found, lines = part(size, seed)
        numbers |= found
        curves += lines
    report(0.8, "digits")
    found, lines = _digits(size, seed)
    return Measurement(numbers | found, (*curves, *lines))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def median(name: str) -> float:
        return statistics.median(m.numbers[name] for m in measurements)

    names = measurements[0].numbers
    ks = [int(name.split("/")[1]) for name in names if name.startswith("outliers/")]
    cells = [m.numbers[f"outliers/{k}"] in (k - 1, k) for m in measurements for k in ks]
    widths = sorted(int(name.split("/")[1]) for name in names if name.startswith("mean of top/"))
    widest, usual = widths[-1], HIDDEN
    change = median(f"mean of top/{widest}") / median(f"mean of top/{usual}") - 1
    shares = median(f"near zero/{usual}"), median(f"near zero/{widest}")
    data = median("top/0.25") / median("top/1")
    outside = median(f"factor outside: mean of top/{widest}") / median(f"factor outside: mean of top/{usual}") - 1
    hill = median("barrier / loss at the start")
    holds = {
        "at this size no gap stands out after k eigenvalues": sum(cells) >= 0.75 * len(cells),
        _why_by_width(change, outside): abs(change) < 0.35 and shares[1] > shares[0],
        "the data move the outliers too little": max(data, 1 / data) > 2,
        "the two solutions lie in different valleys": hill < 0.1,
    }
    because = (
        f"{sum(cells)} of {len(cells)} cells have k - 1 or k outliers (75%); from {usual} to {widest} units the top values change by "
        f"{change:+.0%} (35%; {outside:+.0%} with the readout's factor outside) and the share near zero "
        f"goes from {shares[0]:.2f} to {shares[1]:.2f}; the top value differs "
        f"{max(data, 1 / data):.1f}-fold by separation (2); the path rises by {hill:.1%} of the first loss (10%). The Gauss-Newton "
        f"part's top {CLUSTERS} values are within {median('outliers from Gauss-Newton'):.0%} of the Hessian's."
    )
    held = sum(holds.values())
    if held == len(holds):
        return Verdict("reproduced", because)
    likely = f" Likely reason: {'; '.join(why for why, each in holds.items() if not each)}."
    return Verdict("partly" if held >= 2 else "not reproduced at this scale", because + likely)


def _why_by_width(change: float, outside: float) -> str:
    """Why part 2 fails, where it does, by the top values' change and that with the readout's factor outside."""
    if abs(change) < 0.35:
        return "the share near zero doesn't grow with the width"
    if abs(outside) < 0.35 or change * outside < 0:
        return "the parametrization decides how outliers change with the width, not the number of parameters"
    return "outliers change with the width in both parametrizations"


def _network(inputs: int, hidden: int, outputs: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


class _FactorOutside(nn.Module):
    """The network of :func:`_network`, with readout weights as large as at 20 units and their smallness in a factor."""

    def __init__(self, inputs: int, hidden: int, outputs: int, seed: int) -> None:
        super().__init__()
        first, _, readout = _network(inputs, hidden, outputs, seed)
        if not isinstance(first, nn.Linear) or not isinstance(readout, nn.Linear):
            raise TypeError("the network has a linear layer on either side of its units")
        self.first, self.bias = first, readout.bias
        self.factor = (HIDDEN / hidden) ** 0.5
        self.weight = nn.Parameter(readout.weight.detach() / self.factor)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.first(x)), self.factor * self.weight, self.bias)


def _train(net: nn.Module, X: Tensor, y: Tensor, *, loss: float = 0.0, steps: int = 20_000) -> None:
    """Full-batch descent down to a loss, or for a number of steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    for _ in range(steps):
        optimizer.zero_grad()
        value = F.cross_entropy(net(X), y)
        if value.item() <= loss:
            break
        value.backward()
        optimizer.step()


def _clusters(k: int, seed: int, separation: float = 1.0) -> tuple[Tensor, Tensor]:
    return gaussian_clusters(k, POINTS, DIM, separation=separation, generator=torch.Generator().manual_seed(seed))


def _counts(size: Size, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Part 1, and the Gauss-Newton part and random labels beside it."""
    numbers: dict[str, float] = {}
    curves = []
    for k in size.clusters:
        X, y = _clusters(k, seed)
        net = _network(DIM, HIDDEN, k, seed)
        _train(net, X, y, loss=LOSS)
        values = hessian_eigenvalues(net, F.cross_entropy, (X, y))
        numbers[f"outliers/{k}"] = float(count_outliers(values, 2 * k))
        if k == CLUSTERS:
            newton = gauss_newton_eigenvalues(net, (X, y))
            numbers["outliers from Gauss-Newton"] = (newton[:k] / values[:k] - 1).abs().max().item()
            numbers["most negative over top"] = (values[-1] / values[0]).item()
            curves += [_places("spectrum", "clusters as classes", values[:40])]
            curves += [Curve("spectrum", "clusters as classes", *_axes(newton[:40]), "theory")]
            shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
            other = _network(DIM, HIDDEN, k, seed)
            _train(other, X, shuffled, loss=LOSS, steps=size.random_steps)
            top = hessian_eigenvalues(other, F.cross_entropy, (X, shuffled), k=40)
            curves += [Curve("spectrum", "random labels", *_axes(top), "control")]
    counts = tuple(numbers[f"outliers/{k}"] for k in size.clusters)
    x = tuple(map(float, size.clusters))
    curves.append(Curve("gaps", "found", x, counts))
    curves.append(Curve("gaps", "k", x, x, "theory"))
    curves.append(Curve("gaps", "k - 1", x, tuple(k - 1 for k in x), "theory"))
    return numbers, curves


def _widths(size: Size, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Part 2, and its control."""
    X, y = _clusters(CLUSTERS, seed)
    numbers: dict[str, float] = {}
    tops = []
    for hidden in size.widths:
        net = _network(DIM, hidden, CLUSTERS, seed)
        _train(net, X, y, loss=LOSS)
        values = hessian_eigenvalues(net, F.cross_entropy, (X, y))
        tops.append(values[:CLUSTERS])
        numbers[f"mean of top/{hidden}"] = values[:CLUSTERS].mean().item()
        numbers[f"near zero/{hidden}"] = (values.abs() < 1e-3 * values[0]).double().mean().item()
        other = _FactorOutside(DIM, hidden, CLUSTERS, seed)
        _train(other, X, y, loss=LOSS)
        draws = torch.Generator().manual_seed(seed)
        top = hessian_eigenvalues(
            other, F.cross_entropy, (X, y), method="lanczos", k=CLUSTERS, steps=60, generator=draws
        )
        numbers[f"factor outside: mean of top/{hidden}"] = top.mean().item()
    x = tuple(map(float, size.widths))
    outside = tuple(numbers[f"factor outside: mean of top/{hidden}"] for hidden in size.widths)
    curves = [Curve("width", "mean of 4, factor outside", x, outside, "control")]
    curves += [Curve("width", f"number {j + 1}", x, tuple(top[j].item() for top in tops)) for j in range(CLUSTERS)]
    curves.append(Curve("bulk", "clusters as classes", x, tuple(numbers[f"near zero/{h}"] for h in size.widths)))
    return numbers, curves


def _data(size: Size, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Part 3."""
    numbers: dict[str, float] = {}
    for separation in SEPARATIONS:
        X, y = _clusters(CLUSTERS, seed, separation)
        net = _network(DIM, HIDDEN, CLUSTERS, seed)
        _train(net, X, y, steps=STEPS)
        numbers[f"top/{separation:g}"] = hessian_eigenvalues(net, F.cross_entropy, (X, y))[0].item()
    return numbers, [Curve("separation", "4 clusters", SEPARATIONS, tuple(numbers.values()))]


def _digits(size: Size, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Part 4, and the largest eigenvalues of both solutions."""
    components, labels = white_digits(size.components)
    draws = torch.Generator().manual_seed(seed)
    picked = torch.randperm(len(labels), generator=draws)[: size.digits]
    X, y = components[picked], labels[picked]
    nets = {batch: _network(size.components, size.hidden, 10, seed) for batch in (10, 500)}
    start = F.cross_entropy(nets[10](X), y).item()
    for batch, net in nets.items():
        optimizer = torch.optim.SGD(net.parameters(), lr=LR)
        for _ in range(size.epochs):
            for part in torch.randperm(len(y), generator=draws).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(net(X[part]), y[part]).backward()
                optimizer.step()
            with torch.no_grad():
                if F.cross_entropy(net(X), y).item() <= PATH_LOSS:
                    break
    shares, losses = linear_path(nets[10], nets[500], F.cross_entropy, (X, y))
    numbers = {"barrier / loss at the start": barrier(losses) / start}
    curves = [Curve("path", "loss", tuple(shares.tolist()), tuple(losses.tolist()))]
    for batch, net in nets.items():
        top = hessian_eigenvalues(net, F.cross_entropy, (X, y), k=15)
        numbers[f"digits: top/{batch}"] = top[0].item()
        curves.append(_places("digits", f"batches of {batch}", top))
    return numbers, curves


def _axes(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    positive = values[values > 0].tolist()
    return tuple(float(i + 1) for i in range(len(positive))), tuple(positive)


def _places(panel: str, label: str, values: Tensor) -> Curve:
    return Curve(panel, label, *_axes(values))
