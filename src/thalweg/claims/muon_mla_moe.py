"""Muon needs about half of AdamW's steps, and latent attention and experts save memory without harm, the more so under Muon.

The claim of arXiv:2509.24406 on a byte-level language model of real text: steps to AdamW's loss, with normalized momentum as the
control; and four architectures under both optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict, Word
from thalweg.claims.engine.language_model import Course, Size, best_rate, decoder, train
from thalweg.claims.engine.matrix_arms import BETAS, adamw
from thalweg.nn import MixtureOfExperts, MultiheadLatentAttention
from thalweg.optim import HybridAuON, Muon, muon_groups
from thalweg.tasks.decoder import WEIGHT_STD, CausalSelfAttention

RULE = """\
Byte-level language model of real text (2 blocks of width 64, 1024 bytes a step), validation loss, fresh seeds. On another seed a
learning rate for AdamW everywhere is chosen, which all but the hidden matrices then has in every arm; then that of the hidden matrices
for AdamW, for Muon and for the control, each among 4; a best rate at a grid's edge widens the grid.
1. Steps. The share of all steps after which Muon's loss is at or below AdamW's last one, on straight lines between evaluations; 1.05
   if it never is. Mean at most 0.65. The paper has about 0.5 of the compute, of which Newton-Schulz takes a large share at this size
   (5 times the width over the bytes in a step); it is shown.
2. Architecture, on the first 2 seeds, all at the rates above. Latent attention of rank 32 caches at least 60% fewer numbers a token
   and ends at most 2% above multi-head attention, under both optimizers; and Muon's relative gain over AdamW with latent attention
   and experts is at least that with neither.
Reproduced: both. Partly: one of them, or a mean share below 0.95. Not reproduced: otherwise.
Control: momentum divided by its norm, matrix by matrix, in the place of Muon. If its mean share is at most 0.05 above Muon's, the gain
in steps is explained by normalization. Speed of inference isn't judged: it needs an accelerator."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=6), "cpu": Scale(seeds=(11, 12, 13), seconds=280)}

PANELS = (
    Panel("loss", "Language model: validation loss", "step", "nats per byte"),
    Panel("architecture", "Architectures: final validation loss", "numbers cached a token and layer", "nats per byte"),
)

ARMS: dict[str, Role] = {"AdamW": "measured", "Muon": "measured", "normalized momentum": "control"}
GRIDS = {
    "rest": (-3.0, -2.5, -2.0, -1.5),
    "AdamW": (-3.0, -2.5, -2.0, -1.5),
    "Muon": (-2.3, -2.0, -1.7, -1.4),
    "normalized momentum": (-1.5, -1.0, -0.5, 0.0),
}
"""First exponents of ten of the learning rates."""
PLAIN = "multi-head, dense"
ARCHITECTURES = (PLAIN, "latent, dense", "multi-head, experts", "latent, experts")
OPTIMIZERS = ("AdamW", "Muon")
TUNING_SEED = 1000


@dataclass(frozen=True)
class Plan:
    """A size, how much is tuned in it, and on how many seeds architectures are compared."""

    size: Size
    points: int
    widen: int
    last_architecture_seed: int


PLANS = {
    "smoke": Plan(Size(steps=4, width=32, context=16, evaluations=2, valid_windows=8), 1, 0, 0),
    "cpu": Plan(Size(steps=200, width=64, context=64, evaluations=10, valid_windows=128), 4, 3, 12),
}


def choose(scale: str, *, report: Report) -> dict[str, float]:
    """Learning rates: of all but the hidden matrices, then every arm's of those."""
    plan = PLANS[scale]
    chosen: dict[str, float] = {}
    for place, (arm, grid) in enumerate(GRIDS.items()):
        report(place / len(GRIDS), f"choosing the learning rate of {arm}")

        def score(rate: float, arm: str = arm) -> float:
            return train(_maker(arm, {**chosen, arm: rate}), TUNING_SEED, plan.size).final

        chosen[arm] = best_rate(score, grid if plan.points > 1 else grid[1:2], plan.widen)
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All optimizers on the plain model, and on early seeds both on all architectures."""
    plan = PLANS[scale]
    work = [(arm, PLAIN) for arm in ARMS]
    if seed <= plan.last_architecture_seed:
        work += [(arm, architecture) for arm in OPTIMIZERS for architecture in ARCHITECTURES[1:]]
    courses: dict[tuple[str, str], Course] = {}
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    for place, (arm, architecture) in enumerate(work):
        report(place / len(work), f"{arm}, {architecture}")
        courses[arm, architecture] = found = train(
            _maker(arm, chosen),
            seed,
            plan.size,
            model=partial(build, architecture=architecture),
            extra_loss=_balancing_loss if "experts" in architecture else None,
        )
        numbers[f"{arm}, {architecture}: validation loss"] = found.final
        if architecture == PLAIN:
            curves.append(Curve("loss", arm, found.steps, found.losses, ARMS[arm]))
    numbers |= _shares(courses, plan.size)
    if len(work) > len(ARMS):
        sizes = {architecture: cached_numbers(build(plan.size, architecture)) for architecture in ARCHITECTURES}
        numbers |= {f"{architecture}: numbers cached": float(count) for architecture, count in sizes.items()}
        for arm in OPTIMIZERS:
            for feed_forward in ("dense", "experts"):
                pair = [f"{attention}, {feed_forward}" for attention in ("multi-head", "latent")]
                losses = tuple(courses[arm, architecture].final for architecture in pair)
                counts = tuple(float(sizes[architecture]) for architecture in pair)
                curves.append(Curve("architecture", f"{arm}, {feed_forward}", counts, losses))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    share = {
        arm: _mean([m.numbers[f"{arm}: share of the steps to AdamW's loss"] for m in measurements])
        for arm in list(ARMS)[1:]
    }
    compute = _mean([m.numbers["Muon: share of the compute to AdamW's loss"] for m in measurements])
    compared = [m.numbers for m in measurements if f"{PLAIN}: numbers cached" in m.numbers]
    loss = {
        (arm, architecture): _mean([numbers[f"{arm}, {architecture}: validation loss"] for numbers in compared])
        for arm in OPTIMIZERS
        for architecture in ARCHITECTURES
    }
    saved = 1 - compared[0]["latent, dense: numbers cached"] / compared[0][f"{PLAIN}: numbers cached"]
    higher = max(loss[arm, "latent, dense"] / loss[arm, PLAIN] - 1 for arm in OPTIMIZERS)
    gain = {
        architecture: 1 - loss["Muon", architecture] / loss["AdamW", architecture]
        for architecture in (PLAIN, "latent, experts")
    }
    steps = share["Muon"] <= 0.65
    harmless, compounds = saved >= 0.6 and higher <= 0.02, gain["latent, experts"] >= gain[PLAIN]
    because = (
        f"Share of AdamW's steps to its last loss: Muon {share['Muon']:.2f} (at most 0.65; {compute:.2f} of the compute), normalized "
        f"momentum {share['normalized momentum']:.2f}. Latent attention caches {100 * saved:.0f}% less (60%) and ends at most "
        f"{100 * higher:+.1f}% from multi-head attention (+2%); Muon's gain over AdamW is {100 * gain['latent, experts']:.1f}% with "
        f"latent attention and experts and {100 * gain[PLAIN]:.1f}% with neither (at least as much)."
    )
    explained = None
    if share["Muon"] < 0.95 and share["normalized momentum"] <= share["Muon"] + 0.05:
        explained = "dividing the momentum of every matrix by its norm"
    if steps and harmless and compounds:
        return Verdict("reproduced", because, explained)
    reasons = []
    if not steps:
        reasons.append(
            "a tuned AdamW leaves less to gain at this size" if share["Muon"] < 0.95 else "Muon gains no steps here"
        )
    if not harmless:
        reasons.append("a rank of half the width is too little for heads this small")
    if not compounds:
        reasons.append("experts of this size see few bytes each, under either optimizer")
    word: Word = "partly" if share["Muon"] < 0.95 or (harmless and compounds) else "not reproduced at this scale"
    return Verdict(word, f"{because} Likely reason: {'; '.join(reasons)}.", explained)


class _Latent(nn.Module):
    """Latent attention in the place of a block's: the cache is not needed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = MultiheadLatentAttention(width, num_heads=4, kv_rank=width // 2, rope_dim=width // 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x)[0]
        return y


class _Experts(nn.Module):
    """Experts in the place of a block's feed-forward network; with two and a shared one a token uses as many weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = MixtureOfExperts(width, hidden_dim=width * 7 // 8, num_experts=8, top_k=2, num_shared=1)
        self.balancing_loss = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        y, self.balancing_loss = self.experts(x)
        return y


def build(size: Size, architecture: str) -> nn.Module:
    """The decoder, its attention or its feed-forward networks replaced as the name says; all matrices from N(0, 0.02)."""
    model = decoder(size)
    for block in model.blocks:
        assert isinstance(block, nn.Module)
        if "latent" in architecture:
            block.attention = _Latent(size.width)
        if "experts" in architecture:
            block.mlp = _Experts(size.width)
        if architecture != PLAIN:
            for parameter in block.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=WEIGHT_STD)
    return model


def cached_numbers(model: nn.Module) -> int:
    """Numbers that decoding keeps for each token in a block: the latent and a key, or all heads' keys and values."""
    for module in model.modules():
        if isinstance(module, MultiheadLatentAttention):
            return module.kv_rank + module.rope_dim
        if isinstance(module, CausalSelfAttention):
            return 2 * module.out.in_features
    raise ValueError("the model has no attention")


def _balancing_loss(model: nn.Module) -> Tensor:
    return torch.stack([m.balancing_loss for m in model.modules() if isinstance(m, _Experts)]).sum()


def _shares(courses: Mapping[tuple[str, str], Course], size: Size) -> dict[str, float]:
    """Steps to AdamW's last loss on the plain model; and the compute, counting Newton-Schulz as 5 width / bytes of a step."""
    target = courses["AdamW", PLAIN].final
    numbers = {
        f"{arm}: share of the steps to AdamW's loss": courses[arm, PLAIN].share_to(target) for arm in list(ARMS)[1:]
    }
    overhead = 1 + 5 * size.width / (size.batch * size.context)
    steps = numbers["Muon: share of the steps to AdamW's loss"]
    return numbers | {"Muon: share of the compute to AdamW's loss": overhead * steps}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _maker(arm: str, rates: Mapping[str, float]) -> Callable[[nn.Module], torch.optim.Optimizer]:
    rest = rates["rest"]
    others: dict[str, Any] = {"rest_lr": rest, "rest_betas": BETAS}
    if arm in ("rest", "AdamW"):
        return lambda model: adamw(model, rates[arm], rest, muon_groups)
    if arm == "Muon":
        return lambda model: Muon(model, lr=rates[arm], ns_dtype="float32", **others)
    return lambda model: HybridAuON(model, lr=rates[arm], ns_steps=0, gamma=0.0, **others)
