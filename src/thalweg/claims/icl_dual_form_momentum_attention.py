"""Attention with momentum against plain attention, in a small language model of real text.

The claim of arXiv:2212.10559 that can be decided by training: momentum in attention lowers the loss at every length of context.
That learning in context resembles fine-tuning, the paper's other claim, is examined by :mod:`~thalweg.claims.icl_vs_gd_revisited`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.language_model import Course, Size, best_rate, decoder, loss_of, train
from thalweg.claims.engine.paired import difference
from thalweg.nn import MomentumAttention
from thalweg.optim import AdamW
from thalweg.tasks.decoder import WEIGHT_STD, Decoder
from thalweg.tasks.docs_lm import as_bytes, spread, windows
from thalweg.tasks.docs_text import documents, split_documents
from thalweg.tasks.remembered import remembered

RULE = """\
Byte-level language model of real text (2 blocks of width 64; at gpu scale 4 of width 256), three arms of as many weights:
plain attention, attention with momentum, and the control, whose sum is cut after its first term: the previous token's value
alone, times the same factor. On another seed plain attention gets its learning rate and each of the others its factor, three
trials an arm and one more where the best is at an edge; then fresh seeds, equal starts and data in all arms. Validation loss
in windows of 16, 32 and 64 bytes, at gpu scale of 128 and 256 bytes, too; differences seed by seed.
Reproduced: in all lengths the whole 95% interval lies below both plain attention and the control. Partly: below plain
attention in all lengths, but not below the control: then it is the look at the previous token that helps, and the verdict says
so. Not reproduced: else."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=6),
    "cpu": Scale(seeds=(1, 2, 3), seconds=240),
    "gpu": Scale(seeds=(4, 5, 6, 7, 8), seconds=1100),
}

PANELS = (
    Panel("training", "Language model: validation loss", "training steps", "nats per byte"),
    Panel("lengths", "At the end, by the length of context", "bytes of context", "nats per byte", log="x"),
)

ARMS: dict[str, Role] = {"plain": "measured", "momentum": "measured", "previous token": "control"}
LENGTHS = (16, 32, 64, 128, 256)
"""Bytes of context that losses are taken at, as far as a model reads."""
RATES = {"smoke": (-2.4,), "cpu": (-2.7, -2.4, -2.1), "gpu": (-3.0, -2.7, -2.4)}
FACTORS, WIDEN = (-1.0, -0.7, -0.4), 1
"""Exponents of ten that are tried first, and how many are added beyond an edge that is best (the factor stays below 1). A wider
model wants a smaller rate."""
TUNING_SEED = 1000

SIZES = {
    "smoke": Size(steps=3, width=16, context=64, evaluations=1, valid_windows=8, batch=2),
    "cpu": Size(steps=250, width=64, context=64, evaluations=10, valid_windows=128),
    "gpu": Size(steps=2000, width=256, context=256, evaluations=20, valid_windows=512, batch=32, blocks=4),
}
"""At gpu scale a model that has time to learn to look at the previous token by itself: on 64 times as much text, in four passes."""


class Attention(nn.Module):
    """Momentum attention in the place of a block's own, or with the previous token's value alone."""

    def __init__(self, embed_dim: int, num_heads: int, factor: float, previous_only: bool) -> None:
        super().__init__()
        self.inner = MomentumAttention(embed_dim, num_heads, momentum=0.0 if previous_only else factor, bias=False)
        self.factor = factor if previous_only else 0.0
        for weight in self.parameters():
            nn.init.normal_(weight, std=WEIGHT_STD)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)[0]
        if self.factor:
            values = self.inner.qkv_proj(x)[..., -x.shape[-1] :]
            before = torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], 1)
            out = out + self.factor * self.inner.out_proj(before)
        return out


def choose(scale: str, *, report: Report) -> dict[str, float]:
    """The learning rate of plain attention, then the factors of the others at it."""
    size = SIZES[scale]
    rates, factors = RATES[scale], FACTORS[1:2] if scale == "smoke" else FACTORS
    report(0.0, "choosing the learning rate")
    lr = best_rate(lambda rate: _trained("plain", rate, 0.0, TUNING_SEED, size)[0].final, rates, WIDEN)
    chosen = {"lr": lr}
    for place, arm in enumerate(ARMS):
        if arm != "plain":
            report(place / len(ARMS), f"choosing the factor of {arm}")

            def score(factor: float, arm: str = arm) -> float:
                return _trained(arm, lr, factor, TUNING_SEED, size)[0].final

            chosen[arm] = best_rate(score, factors, WIDEN)
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms from one start, over the same data."""
    size = SIZES[scale]
    numbers = {f"chosen {name}": float(value) for name, value in chosen.items()}
    curves = []
    for place, (arm, role) in enumerate(ARMS.items()):
        report(place / len(ARMS), f"training with {arm} attention")
        course, model = _trained(arm, chosen["lr"], chosen.get(arm, 0.0), seed, size)
        lengths = [length for length in LENGTHS if length <= size.context]
        losses = [loss_of(model, *_valid(length, size)) for length in lengths]
        numbers |= {f"loss, {arm}/{length} bytes": loss for length, loss in zip(lengths, losses, strict=True)}
        curves.append(Curve("training", arm, course.steps, course.losses, role))
        curves.append(Curve("lengths", arm, tuple(map(float, lengths)), tuple(losses), role))
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
            "a model this small and short of training gains from seeing the previous token directly, and that is all"
        )
        return Verdict("partly", f"{because} Likely reason: {likely}.", "adding the previous token's value alone")
    mean = statistics.mean(gain.mean for gain in gains["plain"])
    likely = (
        f"{len(measurements)} seeds are too few for so small a gain"
        if mean < 0
        else "momentum blurs what attention reads"
    )
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def _trained(arm: str, lr: float, factor: float, seed: int, size: Size) -> tuple[Course, nn.Module]:
    made: list[Decoder] = []

    def model(size: Size) -> Decoder:
        made.append(_model(arm, factor, size))
        return made[0]

    course = train(lambda net: AdamW(net, lr=lr, betas=(0.9, 0.95), weight_decay=0.0), seed, size, model=model)
    return course, made[0]


def _model(arm: str, factor: float, size: Size) -> Decoder:
    """A decoder with the arm's attention; the same start in all arms, for the weights are the same matrices."""
    net = decoder(size)
    for block in net.blocks:
        block.attention = Attention(size.width, 4, factor if arm != "plain" else 0.0, arm == "previous token")
    return net


def _valid(length: int, size: Size) -> tuple[Tensor, Tensor]:
    return spread(*windows(_held_out(), length), size.valid_windows * size.context // length)


@remembered
def _held_out() -> Tensor:
    return as_bytes(split_documents(documents())[1])
