"""Fira closes the gap between GaLore and full-rank training, in the same memory.

The claim of arXiv:2410.01623, on a byte-level language model of real text; with sign descent, which has no state at all, and Fira
without its limiter as controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Scale, Verdict
from thalweg.claims.engine.language_model import Size
from thalweg.claims.engine.matrix_arms import (
    BETAS,
    Arm,
    Plan,
    adam_settings,
    adamw,
    choose_rates,
    gap,
    in_words,
    measured,
    run_arms,
    state_share,
)
from thalweg.optim import Fira, Frugal, GaLore, subspace_groups

RULE = """\
Byte-level language model of real text (2 blocks of width 64), final validation loss, fresh seeds. Low-rank rules have rank 4 and a new
subspace every 50 steps. On another seed a learning rate for AdamW everywhere is chosen, which all but the hidden matrices then has in
every arm; then that of the hidden matrices for AdamW, GaLore, Fira and sign descent, each among 3; a best rate at a grid's edge widens
the grid.
The gap is GaLore's mean loss minus AdamW's; Fira closes the share of it by which its own mean lies below GaLore's.
Reproduced: Fira closes at least 80%. Partly: at least 30%. Both with at most 1% more bytes of state than GaLore, and only if Fira's
loss lies below that of sign descent on the same matrices, which needs no state: the whole 95% interval of the paired differences.
Not reproduced: otherwise. Not testable: GaLore's loss isn't above AdamW's, as the whole interval has to be.
Control: Fira without its limiter, at Fira's rate; if its mean is at most 0.005 nats above Fira's, the limiter isn't what helps. Shown
beside it: the rank correlation over matrices of the ratio of Adam's update to the gradient, in Fira's subspace and at full rank."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=4), "cpu": Scale(seeds=(11, 12, 13), seconds=240)}

PANELS = (
    Panel("loss", "Language model: validation loss", "step", "nats per byte"),
    Panel("ratios", "Matrices: update over gradient", "at full rank", "in Fira's subspace", log="xy"),
)

PLANS = {
    "smoke": Plan(Size(steps=4, width=16, context=16, evaluations=2, valid_windows=8), widen=None),
    "cpu": Plan(Size(steps=280, width=64, context=64, evaluations=10, valid_windows=128), widen=3),
}

LOW_RANK: dict[str, Any] = {"rank": 4, "update_every": 50, "scale": 1.0}

ONE_RATE = "AdamW, one rate"
"""Gives the rate of the rest, and is then done."""

TUNED = {
    ONE_RATE: Arm(adamw, -2.5),
    "AdamW": Arm(adamw, -2.5),
    "GaLore": Arm(lambda model, rate, rest: GaLore(model, **adam_settings(rate, rest), **LOW_RANK), -2.0),
    "Fira": Arm(lambda model, rate, rest: Fira(model, **adam_settings(rate, rest), **LOW_RANK), -2.0),
    "sign descent": Arm(
        lambda model, rate, rest: Frugal(model, **adam_settings(rate, rest), density=0.0, projection="columns"),
        -3.0,
        "control",
    ),
}
UNLIMITED = Arm(
    lambda model, rate, rest: Fira(model, **adam_settings(rate, rest), norm_growth_limit=None, **LOW_RANK),
    -2.0,
    "control",
)
ARMS = {name: arm for name, arm in {**TUNED, "no limiter": UNLIMITED}.items() if name != ONE_RATE}


def choose(scale: str, *, report: Report) -> dict[str, dict[str, float]]:
    """Learning rates; Fira without its limiter takes Fira's."""
    chosen = choose_rates(TUNED, PLANS[scale].trainer, PLANS[scale].widen, report=report)
    return {**chosen, "no limiter": chosen["Fira"]}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms, and what Fira's ratios would be at full rank."""
    plan, ratios = PLANS[scale], Ratios()

    def watch(name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if name == "Fira":
            ratios.attach(model, optimizer, plan.size.steps // 2)

    courses = run_arms(ARMS, chosen, plan.trainer, seed, report=report, rest_of=ONE_RATE, watch=watch)
    numbers = {f"{arm}: state over AdamW's": state_share(ARMS[arm], plan.size) for arm in ("GaLore", "Fira")}
    numbers["rank correlation of ratios"] = ratios.correlation()
    found = measured(ARMS, courses, numbers)
    return Measurement(found.numbers, (*found.curves, ratios.curve()))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    whole, gain = gap(measurements, "GaLore", "AdamW"), gap(measurements, "GaLore", "Fira")
    control, unlimited = gap(measurements, "Fira", "sign descent"), gap(measurements, "no limiter", "Fira")
    numbers = measurements[0].numbers
    share = {arm: numbers[f"{arm}: state over AdamW's"] for arm in ("GaLore", "Fira")}
    small = share["Fira"] <= 1.01 * share["GaLore"]
    correlation = sum(m.numbers["rank correlation of ratios"] for m in measurements) / len(measurements)
    because = (
        f"Nats per byte: GaLore minus AdamW {in_words(whole)}, GaLore minus Fira {in_words(gain)}, Fira minus sign descent "
        f"{in_words(control)}, Fira without its limiter minus Fira {in_words(unlimited)}. State over AdamW's: GaLore "
        f"{100 * share['GaLore']:.1f}%, Fira {100 * share['Fira']:.1f}% (at most 1% more). Ratios of update to gradient, in the "
        f"subspace and at full rank, have rank correlation {correlation:.2f}."
    )
    if not whole.above:
        likely = "the model is so small and its training so short that a few directions suffice"
        return Verdict(
            "not testable at this scale", f"GaLore leaves no gap to close. {because} Likely reason: {likely}."
        )
    closed = gain.mean / whole.mean
    because = f"Fira closes {100 * closed:.0f}% of the gap (80%, partly 30%). {because}"
    explained = "the scaled residual alone, without the limiter" if unlimited.mean <= 0.005 else None
    if not control.below:
        likely = "sign descent does as well without state, so a step in all directions is what helps, not the state"
        return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")
    if not small or closed < 0.3:
        likely = "the part outside the subspace gets steps of one size a row, and too small ones"
        return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")
    if closed < 0.8:
        likely = "outside the subspace there is no scaling entry by entry, which a rank this small leaves to do"
        return Verdict("partly", f"{because} Likely reason: {likely}.", explained)
    return Verdict("reproduced", because, explained)


@dataclass
class Ratios:
    """Over the second half of a training, matrix by matrix: the logarithm of Adam's update over the gradient, both as norms.

    At full rank it is that of moments kept beside the optimizer, of the same gradients; the moments are not bias corrected.
    """

    moments: dict[nn.Parameter, tuple[Tensor, Tensor]] = field(default_factory=dict)
    full: dict[nn.Parameter, list[float]] = field(default_factory=dict)
    low: dict[nn.Parameter, list[float]] = field(default_factory=dict)

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer, first: int) -> None:
        """Look at every step, and count from step ``first`` on."""
        matrices = [param for _, param in subspace_groups(model)[0]["params"]]
        self.moments = {param: (torch.zeros_like(param), torch.zeros_like(param)) for param in matrices}
        self.full = {param: [] for param in matrices}
        self.low = {param: [] for param in matrices}
        optimizer.register_step_post_hook(lambda *_: self._look(optimizer, first))

    def _look(self, optimizer: torch.optim.Optimizer, first: int) -> None:
        for param, (mean, square) in self.moments.items():
            assert param.grad is not None
            mean.lerp_(param.grad, 1 - BETAS[0])
            square.lerp_(param.grad.square(), 1 - BETAS[1])
            state = optimizer.state[param]
            if int(state["step"]) <= first:
                continue
            gradient = param.grad if param.shape[0] >= param.shape[1] else param.grad.T
            self.full[param].append(_log_ratio(mean, square, param.grad))
            self.low[param].append(_log_ratio(state["exp_avg"], state["exp_avg_sq"], gradient @ state["basis"]))

    def means(self) -> list[tuple[float, float]]:
        """For every matrix its geometric means, at full rank and in the subspace."""
        pairs = zip(self.full.values(), self.low.values(), strict=True)
        both = [tuple(torch.tensor(values).mean().exp().item() for values in pair) for pair in pairs]
        return sorted((full, low) for full, low in both)

    def curve(self) -> Curve:
        """One point a matrix."""
        full, low = zip(*self.means(), strict=True)
        return Curve("ratios", "8 matrices", full, low)

    def correlation(self) -> float:
        """Spearman's, over matrices."""
        from scipy.stats import spearmanr

        full, low = zip(*self.means(), strict=True)
        return float(spearmanr(full, low).statistic)


def _log_ratio(mean: Tensor, square: Tensor, gradient: Tensor) -> float:
    update = (mean / (square.sqrt() + 1e-6)).norm()
    return (update.clamp(min=1e-30) / gradient.norm().clamp(min=1e-30)).log().item()
