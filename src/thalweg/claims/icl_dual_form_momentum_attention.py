"""Attention with momentum against plain attention, in a small language model of real text.

The claim of arXiv:2212.10559 that can be decided by training: momentum in attention lowers the loss at every length of context.
The paper's other claim, that learning in context moves a model's outputs of attention as fine-tuning does, is measured by
:mod:`~thalweg.claims.icl_vs_gd_revisited`, by this paper's measures (SimAOU and Rec2FTP) on the model with which that one contests it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.language_model import Course, Size, best_rate, decoder, factor, loss_of
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import difference
from thalweg.nn import MomentumAttention, ema_values
from thalweg.optim import AdamW
from thalweg.tasks.decoder import WEIGHT_STD, Decoder
from thalweg.tasks.docs_lm import as_bytes, next_byte_loss, spread, windows
from thalweg.tasks.docs_text import documents, split_documents
from thalweg.tasks.remembered import remembered

RULE = """\
Byte-level language model of real text (2 blocks of width 64; at gpu scale 4 of width 256), three arms of as many weights:
plain attention, attention with momentum, and the control, whose sum is cut after its first term: the previous token's value
alone, times the same factor. On two other seeds, by their mean, plain attention gets its learning rate and each of the others
its factor, three trials an arm and one more where the best is at an edge; then fresh seeds, equal starts and data in all arms.
Validation loss in windows of 16, 32 and 64 bytes, at gpu scale of 128 and 256 bytes, too; differences seed by seed.
Reproduced: in all lengths the whole 95% interval lies below both plain attention and the control. Partly: below plain
attention in all lengths, but not below the control: then it is the look at the previous token that helps, and the verdict says
so. Not testable: the mean is below plain attention's in all lengths, but an interval reaches 0. Not reproduced: else.
Second version, with the same thresholds. The first had 3 seeds and gave "not reproduced": momentum was below plain attention in
each of them at every length, but one interval reached to +0.005. That is too few seeds to tell, not an experiment that could
have shown it; now there are 6, all of them new, and the word for such an outcome is "not testable". The factor had been chosen
on one seed, 0.2; trial runs then gave that factor 0.05 and 0.07 nats on two other seeds and 0.5 there 0.11 and 0.06, so seeds
differ by as much as factors do and it is now chosen on two. Learning rates are tried from half as high, since the best was at
the lower edge."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=6),
    "cpu": Scale(seeds=(11, 12, 13, 14, 15, 16), seconds=240),
    "gpu": Scale(seeds=(21, 22, 23, 24, 25, 26), seconds=1200),
}

PANELS = (
    Panel("training", "Language model: validation loss", "training steps", "nats per byte"),
    Panel("lengths", "At the end, by the length of context", "bytes of context", "nats per byte", log="x"),
    Panel("factors", "Where factors were chosen (other seeds)", "factor", "nats per byte", log="x"),
)

ARMS: dict[str, Role] = {"plain": "measured", "momentum": "measured", "previous token": "control"}
LENGTHS = (16, 32, 64, 128, 256)
"""Bytes of context that losses are taken at, as far as a model reads."""
RATES = {"smoke": (-2.4,), "cpu": (-3.0, -2.7, -2.4), "gpu": (-3.0, -2.7, -2.4)}
FACTORS = {"smoke": (-1.0, -0.7), "cpu": (-1.0, -0.7, -0.4), "gpu": (-1.0, -0.7, -0.4)}
WIDEN = 1
"""Exponents of ten that are tried first, and how many are added beyond an edge that is best (the factor stays below 1). A wider
model wants a smaller rate."""
TUNING_SEEDS = {"smoke": (1000,), "cpu": (1000, 1001), "gpu": (1000, 1001)}

SIZES = {
    "smoke": Size(steps=3, width=16, context=64, evaluations=1, valid_windows=8, batch=2),
    "cpu": Size(steps=250, width=64, context=64, evaluations=5, valid_windows=128),
    "gpu": Size(steps=2000, width=256, context=256, evaluations=20, valid_windows=512, batch=32, blocks=4),
}
"""At gpu scale a model that has time to learn to look at the previous token by itself: on 64 times as much text, in four passes."""


class Attention(nn.Module):
    """A block's own attention plus a fixed matrix times the values of its tokens, which is all that tells the arms apart.

    Args:
        embed_dim, num_heads: as in :class:`~thalweg.nn.MomentumAttention`.
        sums: the matrix, (context, context).
    """

    sums: Tensor

    def __init__(self, embed_dim: int, num_heads: int, sums: Tensor) -> None:
        super().__init__()
        self.inner = MomentumAttention(embed_dim, num_heads, momentum=0.0, bias=False)
        self.register_buffer("sums", sums)
        for weight in self.parameters():
            nn.init.normal_(weight, std=WEIGHT_STD)

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[-2:]
        values = nn.functional.linear(x, self.inner.qkv_proj.weight[-width:])
        out: Tensor = self.inner(x)[0] + self.inner.out_proj(self.sums[:length, :length] @ values)
        return out


@dataclass(frozen=True)
class Run:
    """One training: of which arm, with which factor, from which seed's start and data."""

    arm: str
    factor: float
    seed: int


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """The learning rate of plain attention, then the factors of the others at it, by the mean over the tuning seeds."""
    size, seeds = SIZES[scale], TUNING_SEEDS[scale]
    size = replace(size, evaluations=1)
    report(0.0, "choosing the learning rate")

    plain: dict[float, float] = {}

    def of_rate(rate: float) -> float:
        courses, _ = train_side_by_side([Run("plain", 0.0, seed) for seed in seeds], rate, size)
        plain[rate] = statistics.mean(course.final for course in courses)
        return plain[rate]

    lr = best_rate(of_rate, RATES[scale], WIDEN)
    chosen: dict[str, Any] = {"lr": lr, "losses": {"plain": plain.get(lr) or of_rate(lr)}}
    for place, arm in enumerate(ARMS):
        if arm == "plain":
            continue
        report(place / len(ARMS), f"choosing the factor of {arm}")
        losses: dict[float, float] = {}

        def of_factors(exponents: list[float], arm: str = arm, losses: dict[float, float] = losses) -> list[float]:
            runs = [Run(arm, 10**e, seed) for e in exponents for seed in seeds]
            finals = [course.final for course in train_side_by_side(runs, lr, size)[0]]
            means = [statistics.mean(finals[k : k + len(seeds)]) for k in range(0, len(finals), len(seeds))]
            losses.update(zip((10**e for e in exponents), means, strict=True))
            return means

        chosen[arm] = 10 ** best_on_log_grid(of_factors, FACTORS[scale], widen=WIDEN)
        chosen["losses"][arm] = {f"{factor:.2g}": losses[factor] for factor in sorted(losses)}
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms from one start, over the same data."""
    size = SIZES[scale]
    report(0.0, "training with all kinds of attention")
    runs = [Run(arm, chosen.get(arm, 0.0), seed) for arm in ARMS]
    courses, models = train_side_by_side(runs, chosen["lr"], size)
    numbers = {f"chosen {name}": float(value) for name, value in chosen.items() if name != "losses"}
    lengths = [length for length in LENGTHS if length <= size.context]
    curves = []
    for (arm, role), course, model in zip(ARMS.items(), courses, models, strict=True):
        losses = [loss_of(model, *_valid(length, size)) for length in lengths]
        numbers |= {f"loss, {arm}/{length} bytes": loss for length, loss in zip(lengths, losses, strict=True)}
        curves.append(Curve("training", arm, course.steps, course.losses, role))
        curves.append(Curve("lengths", arm, tuple(map(float, lengths)), tuple(losses), role))
        tried = chosen["losses"][arm]
        if isinstance(tried, float):
            tried = dict.fromkeys(chosen["losses"]["momentum"], tried)
        curves.append(Curve("factors", arm, tuple(map(float, tried)), tuple(tried.values()), role))
    guess = math.log(256)
    curves.append(Curve("training", "guessing", (0.0, float(size.steps)), (guess, guess), "theory"))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def losses(arm: str, length: int) -> list[float]:
        return [m.numbers[f"loss, {arm}/{length} bytes"] for m in measurements]

    lengths = [length for length in LENGTHS if f"loss, plain/{length} bytes" in measurements[0].numbers]
    gains = {
        other: [difference(losses("momentum", length), losses(other, length)) for length in lengths]
        for other in ("plain", "previous token")
    }
    told = [
        ", ".join(f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" for gain in gains[other]) for other in gains
    ]
    at = ", ".join(map(str, lengths[:-1]))
    because = (
        f"Momentum minus plain attention at {at} and {lengths[-1]} bytes: {told[0]} nats per byte; minus the previous token's value "
        f"alone: {told[1]} (below 0 with the whole interval asked for)."
    )
    better = {other: all(gain.below for gain in found) for other, found in gains.items()}
    if all(better.values()):
        return Verdict("reproduced", because)
    if better["plain"]:
        likely = (
            "the gain comes from the previous token's value, which the sum's first term holds; later terms add nothing"
        )
        return Verdict("partly", f"{because} Likely reason: {likely}.", "adding the previous token's value alone")
    if all(gain.mean < 0 for gain in gains["plain"]):
        likely = f"{len(measurements)} seeds are too few for so small a gain"
        return Verdict("not testable at this scale", f"{because} Likely reason: {likely}.")
    return Verdict(
        "not reproduced at this scale", f"{because} Likely reason: momentum blurs what attention reads at some lengths."
    )


def train_side_by_side(runs: Sequence[Run], lr: float, size: Size) -> tuple[list[Course], list[Decoder]]:
    """Train all runs at once, each as :func:`~thalweg.claims.engine.language_model.train` would train it alone."""
    models = [_model(one, size) for one in runs]
    weights, sums = stack_module_state(models)
    optimizer = AdamW(list(weights.values()), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    inputs, targets = windows(_text()[0], size.context)
    valid = spread(*windows(_text()[1], size.context), size.valid_windows)
    draws = {one.seed: torch.Generator().manual_seed(one.seed) for one in runs}

    def loss_with(own: dict[str, Tensor], fixed: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return next_byte_loss(functional_call(models[0], {**own, **fixed}, (x,)), y)

    steps, losses = [0.0], [[loss_of(model, *valid) for model in models]]
    for step in range(size.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * factor(step, size.steps)
        rows = {seed: torch.randint(len(inputs), (size.batch,), generator=own) for seed, own in draws.items()}
        seen = torch.stack([rows[one.seed] for one in runs])
        optimizer.zero_grad()
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels can't be batched over runs
            vmap(loss_with)(weights, sums, inputs[seen], targets[seen]).sum().backward()
        optimizer.step()
        if (step + 1) % max(1, size.steps // size.evaluations) == 0 or step + 1 == size.steps:
            for k, model in enumerate(models):
                model.load_state_dict({name: stacked[k].detach() for name, stacked in weights.items()}, strict=False)
            steps.append(step + 1.0)
            losses.append([loss_of(model, *valid) for model in models])
    return [Course(tuple(steps), tuple(own)) for own in zip(*losses, strict=True)], models


def _model(one: Run, size: Size) -> Decoder:
    """A decoder with the arm's attention; the same start in all arms, for the weights are the same matrices."""
    torch.manual_seed(one.seed)
    net = decoder(size)
    for block in net.blocks:
        block.attention = Attention(size.width, 4, _sums(one.arm, one.factor, size.context))
    return net


def _sums(arm: str, factor: float, context: int) -> Tensor:
    """What an arm adds, as a matrix over the values: rows get, columns give."""
    values = torch.eye(context)
    if arm == "momentum":
        return ema_values(values, factor)[:-1]
    return (factor if arm == "previous token" else 0.0) * torch.cat([torch.zeros_like(values[:1]), values[:-1]])


def _valid(length: int, size: Size) -> tuple[Tensor, Tensor]:
    return spread(*windows(_text()[1], length), size.valid_windows * size.context // length)


@remembered
def _text() -> tuple[Tensor, Tensor]:
    train_text, valid_text = split_documents(documents())
    return as_bytes(train_text), as_bytes(valid_text)
