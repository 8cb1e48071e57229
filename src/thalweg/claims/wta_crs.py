"""A linear layer that stores three tenths of its rows loses almost no quality, and winner-take-all sampling beats sampling alone.

The claim of arXiv:2305.15265 on a byte-level language model of real text, pretrained and then fine-tuned on other modules: variances
of the weight gradients in closed form, bytes that autograd holds, and held-out loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict, Word
from thalweg.claims.engine.held_bytes import held_bytes
from thalweg.claims.engine.language_model import BROKEN, Size, best_rate, decoder, factor, loss_of
from thalweg.claims.engine.paired import difference
from thalweg.nn import GradNormCache, convert_wta_crs, wta_crs_select
from thalweg.optim import AdamW
from thalweg.tasks.docs_lm import as_bytes, next_byte_loss, spread, windows
from thalweg.tasks.docs_text import documents, split_documents

RULE = """\
Byte-level language model of real text (2 blocks of width 64), trained on the first half of the text, then fine-tuned on 256 windows of
the second half, which come again every 32 steps; the loss that counts is on other windows of the second half. All linear layers of
the blocks store a sample of their rows, chosen by the gradient norms of the last visit. On another seed, and yet other windows, the
learning rate is chosen for exact gradients and for each kind of sampling at ratio 0.3, from 3 values; a best value at the
edge widens the grid.
1. Variance. In the exactly fine-tuned model, with norms of the last visit, for ratios 0.1, 0.3 and 0.5: wherever winner-take-all
   keeps rows for certain, its variance (closed form) is below that of column-row sampling by the same probabilities, in at least 90%
   of layers, ratios and seeds. Where it keeps none, the two are the same; if that is so in more than 9 of 10, this isn't testable.
2. Training at ratio 0.3. Held-out loss on average within 1% of exact gradients', and not above column-row sampling's by the whole 95%
   interval over seeds. Autograd holds at least 65% fewer bytes for these layers (of 70%; indices take some).
Reproduced: both. Partly: one. Not reproduced: neither.
Control: rows drawn evenly, without any norms, at the same ratio. If its loss is within 1% of exact gradients' as well, and not above
winner-take-all's by the whole interval, the small loss of quality is explained by keeping rows at random. Shown beside: the k largest
rows alone, which is biased, ratio 0.1, and the bytes of the whole model. The paper's 2.7 times lower peak memory is for T5 and BERT on
a GPU, and isn't judged."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=6), "cpu": Scale(seeds=(11, 12, 13), seconds=200)}

PANELS = (
    Panel("loss", "Fine-tuning: held-out loss", "step", "nats per byte"),
    Panel(
        "variance",
        "Variance of the weight gradient, winner-take-all over column-row sampling",
        "layer",
        "ratio of variances",
    ),
    Panel("memory", "Held-out loss and bytes held for the converted layers", "bytes a token", "nats per byte"),
)

EXACT, WTA, CRS, LARGEST, EVEN = "exact", "winner-take-all", "column-row sampling", "k largest", "evenly drawn"
SAMPLING: dict[str, dict[str, Any]] = {
    WTA: {"deterministic": "adaptive"},
    CRS: {"deterministic": 0.0},
    LARGEST: {"deterministic": 1.0},
    EVEN: {"deterministic": 0.0, "floor": 1.0},
}
ROLES: dict[str, Role] = {LARGEST: "control", EVEN: "control"}
RATIO, LOW_RATIO = 0.3, 0.1
RATIOS = (0.1, 0.3, 0.5)
TUNING_SEED = 1000


@dataclass(frozen=True)
class Plan:
    """Sizes, and the first grid of learning rates (exponents of ten)."""

    size: Size
    pretraining: int
    examples: int
    grid: tuple[float, ...]
    widen: int

    @property
    def epoch(self) -> int:
        """Steps until a window comes again."""
        return self.examples // self.size.batch


PLANS = {
    "smoke": Plan(Size(6, 32, 16, 2, 8, batch=8), 4, 16, (-3.0,), 0),
    "cpu": Plan(Size(200, 64, 64, 5, 128, batch=8), 400, 256, (-3.5, -3.0, -2.5), 3),
}


def choose(scale: str, *, report: Report) -> dict[str, float]:
    """Learning rates of fine-tuning, from one pretrained model."""
    plan, chosen = PLANS[scale], {}
    start = pretrained(plan, TUNING_SEED)
    for place, arm in enumerate((EXACT, *SAMPLING)):
        report(place / 5, f"choosing the learning rate of {arm}")

        def score(rate: float, arm: str = arm) -> float:
            return FineTuning(plan, start, TUNING_SEED, arm, RATIO, rate).to_the_end().final

        chosen[arm] = best_rate(score, plan.grid, plan.widen)
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms at 0.3, one at 0.1; variances in the exact arm, which is stopped twice an epoch apart."""
    plan = PLANS[scale]
    start = pretrained(plan, seed)
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    work = [(EXACT, 1.0), *((arm, RATIO) for arm in SAMPLING), (WTA, LOW_RATIO)]
    for place, (arm, ratio) in enumerate(work):
        name = arm if arm == EXACT else f"{arm} {ratio}"
        report((place + 1) / (len(work) + 1), name)
        tuning = FineTuning(plan, start, seed, arm, ratio, chosen[arm])
        if arm == EXACT:
            found = variances(tuning)
            numbers |= {f"{key}: {what}": value for key, cell in found.items() for what, value in cell.items()}
            curves += _variance_curves(found)
        tuning.to_the_end()
        numbers[f"{name}: held-out loss"] = tuning.final
        layers, whole = bytes_held(tuning)
        numbers[f"{name}: bytes a token, layers"], numbers[f"{name}: bytes a token, model"] = layers, whole
        role = ROLES.get(arm, "measured")
        curves.append(Curve("memory", name, (layers,), (tuning.final,), role))
        if ratio != LOW_RATIO:
            curves.append(Curve("loss", name, tuple(tuning.seen), tuple(tuning.losses), role))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    rows = [m.numbers for m in measurements]
    cells = [
        (row[f"{key}: certain"], row[f"{key}: {WTA}"], row[f"{key}: {CRS}"])
        for row in rows
        for key in (name.removesuffix(": certain") for name in row if name.endswith(": certain"))
    ]
    with_winners = [(ours, theirs) for certain, ours, theirs in cells if certain > 0]
    below = sum(ours < theirs for ours, theirs in with_winners) / max(len(with_winners), 1)
    shrunk = [ours / theirs for ours, theirs in with_winners]
    loss = {
        name: [row[f"{name}: held-out loss"] for row in rows]
        for name in (EXACT, *(f"{arm} {RATIO}" for arm in SAMPLING), f"{WTA} {LOW_RATIO}")
    }
    ours, even = loss[f"{WTA} {RATIO}"], loss[f"{EVEN} {RATIO}"]
    excess = {name: _mean(values) / _mean(loss[EXACT]) - 1 for name, values in loss.items()}
    to_crs = difference(ours, loss[f"{CRS} {RATIO}"])
    held = {
        (name, part): _mean([row[f"{name}: bytes a token, {part}"] for row in rows])
        for name in (EXACT, f"{WTA} {RATIO}")
        for part in ("layers", "model")
    }
    saved = 1 - held[f"{WTA} {RATIO}", "layers"] / held[EXACT, "layers"]
    whole = held[EXACT, "model"] / held[f"{WTA} {RATIO}", "model"]
    because = (
        f"Where rows are certain ({len(with_winners)} of {len(cells)} cells) the variance is below column-row sampling's in "
        f"{100 * below:.0f}% (90%), {_mean(shrunk or [1.0]):.2f} of it on average. At ratio {RATIO} held-out loss is "
        f"{100 * excess[f'{WTA} {RATIO}']:+.2f}% from exact gradients' (+1%), {to_crs.mean:+.4f} nats from column-row sampling's "
        f"({to_crs.low:+.4f} to {to_crs.high:+.4f}); k largest {100 * excess[f'{LARGEST} {RATIO}']:+.2f}%, evenly drawn "
        f"{100 * excess[f'{EVEN} {RATIO}']:+.2f}%; at {LOW_RATIO} {100 * excess[f'{WTA} {LOW_RATIO}']:+.2f}%. Bytes held: "
        f"{100 * saved:.0f}% fewer for these layers (65%), {whole:.2f} times fewer for the model."
    )
    testable = len(with_winners) > 0.1 * len(cells)
    less_variance = testable and below >= 0.9
    close, not_above = excess[f"{WTA} {RATIO}"] <= 0.01, not to_crs.above
    trains = close and not_above and saved >= 0.65
    explained = None
    if close and excess[f"{EVEN} {RATIO}"] <= 0.01 and not difference(even, ours).above:
        explained = "keeping any rows at random"
    if less_variance and trains:
        return Verdict("reproduced", because, explained)
    reasons = []
    if not testable:
        reasons.append("no rows stand out enough to be kept for certain")
    elif not less_variance:
        reasons.append("norms of the last visit say too little about the present ones")
    if not close:
        reasons.append("so small a model feels the noise of its gradients")
    if not not_above:
        reasons.append("certain rows crowd out others whose norms have changed")
    if saved < 0.65:
        reasons.append("indices take a large share where rows are narrow")
    word: Word = "partly" if less_variance or trains else "not reproduced at this scale"
    return Verdict(word, f"{because} Likely reason: {'; '.join(reasons)}.", explained)


@cache
def _texts() -> tuple[Tensor, Tensor]:
    """Both halves of the training text, as bytes; documents are whole in one of them but for the one that is cut."""
    text = as_bytes(split_documents(documents())[0])
    return text[: len(text) // 2], text[len(text) // 2 :]


def fine_tuning_data(plan: Plan) -> dict[str, tuple[Tensor, Tensor]]:
    """Windows of the second half to train on, and others between them: to choose settings by, and to decide."""
    valid = plan.size.valid_windows
    count = plan.examples + 2 * valid
    inputs, targets = spread(*windows(_texts()[1], plan.size.context), count)
    held_out = torch.arange(2 * valid) * count // (2 * valid)
    train = torch.ones(count, dtype=torch.bool)
    train[held_out] = False
    parts = {"train": train.nonzero().flatten(), "validation": held_out[::2], "test": held_out[1::2]}
    return {name: (inputs[rows], targets[rows]) for name, rows in parts.items()}


def pretrained(plan: Plan, seed: int) -> dict[str, Tensor]:
    """Weights after training on the first half of the text."""
    torch.manual_seed(seed)
    model = decoder(plan.size)
    optimizer = AdamW(model, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    inputs, targets = windows(_texts()[0], plan.size.context)
    draws = torch.Generator().manual_seed(seed)
    for step in range(plan.pretraining):
        rows = torch.randint(len(inputs), (plan.size.batch,), generator=draws)
        _step(model, optimizer, 3e-3 * factor(step, plan.pretraining), inputs[rows], targets[rows])
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, inputs: Tensor, targets: Tensor) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = next_byte_loss(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class FineTuning:
    """Fine-tuning of one arm; it can be stopped on the way. Order and start depend on the seed alone."""

    def __init__(self, plan: Plan, start: Mapping[str, Tensor], seed: int, arm: str, ratio: float, rate: float) -> None:
        self.plan, self.rate, self.arm = plan, rate, arm
        self.model = decoder(plan.size)
        self.model.load_state_dict(start)
        self.norms = GradNormCache(plan.examples, plan.size.context)
        if arm != EXACT:
            convert_wta_crs(self.model, ratio, ["blocks.*"], norm_cache=self.norms, **SAMPLING[arm])
        self.optimizer = AdamW(self.model, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        data = fine_tuning_data(plan)
        self.inputs, self.targets = data["train"]
        self.held_out = data["validation" if seed == TUNING_SEED else "test"]
        orders = torch.Generator().manual_seed(seed)
        epochs = -(-plan.size.steps // plan.epoch)
        order = torch.cat([torch.randperm(plan.examples, generator=orders) for _ in range(epochs)])
        self.batches = order.split(plan.size.batch)[: plan.size.steps]
        self.done = 0
        self.seen, self.losses = [0.0], [loss_of(self.model, *self.held_out)]
        torch.manual_seed(seed + 1)  # rows are drawn from the global generator

    @property
    def final(self) -> float:
        """The last held-out loss."""
        return self.losses[-1]

    def to(self, step: int) -> FineTuning:
        """Go on until so many steps are done."""
        size = self.plan.size
        for rows in self.batches[self.done : step]:
            self.norms.set_batch(rows)
            rate = self.rate * factor(self.done, size.steps)
            _step(self.model, self.optimizer, rate, self.inputs[rows], self.targets[rows])
            self.done += 1
            if self.done % max(1, size.steps // size.evaluations) == 0 or self.done == size.steps:
                loss = loss_of(self.model, *self.held_out)
                self.seen.append(float(self.done))
                self.losses.append(loss)
                if loss == BROKEN:
                    break
        return self

    def to_the_end(self) -> FineTuning:
        """Go on until all steps are done."""
        return self.to(self.plan.size.steps)


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the blocks."""
    return {n: m for n, m in model.named_modules() if n.startswith("blocks") and isinstance(m, nn.Linear)}


def rows_and_gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Input rows (D, n) and output gradients (D, m) of every linear layer of the blocks, in float64."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers_of(model)}
    handles = []
    for name, layer in layers_of(model).items():

        def keep(layer: nn.Module, taken: tuple[Tensor, ...], given: Tensor, name: str = name) -> None:
            found[name].append(taken[0].detach().flatten(0, 1).double())
            given.register_hook(lambda grad: found[name].append(grad.detach().flatten(0, 1).double()))

        handles.append(layer.register_forward_hook(keep))
    next_byte_loss(model(inputs), targets).backward()
    model.zero_grad()
    for handle in handles:
        handle.remove()
    return {name: (x, grad) for name, (x, grad) in found.items()}


def variances(tuning: FineTuning) -> dict[str, dict[str, float]]:
    """Relative variances for one batch: rows now, norms of gradients as they were an epoch ago.

    The training is left at the later point: about nine tenths of its steps.
    """
    epoch = min(tuning.plan.epoch, len(tuning.batches) // 2)
    later = len(tuning.batches) * 9 // 10
    batch = tuning.batches[later]
    data = tuning.inputs[batch], tuning.targets[batch]
    tuning.to(later - epoch)
    before = rows_and_gradients(tuning.model, *data)
    tuning.to(later)
    now = rows_and_gradients(tuning.model, *data)
    found = {}
    for name, (x, grad) in now.items():
        stale = x.norm(dim=1) * before[name][1].norm(dim=1)
        p = 0.9 * stale / stale.sum() + 0.1 / len(stale)  # as the layer does it
        for ratio in RATIOS:
            k = max(int(ratio * len(x)), 1)
            certain = int((wta_crs_select(p, k, generator=torch.Generator().manual_seed(0))[1] == 1.0).sum())
            exact = (grad.T @ x).square().sum().item()
            found[f"{name}, ratio {ratio}"] = {
                "certain": certain / k,
                WTA: variance(x, grad, p, k, certain) / exact,
                CRS: variance(x, grad, p, k, 0) / exact,
                EVEN: variance(x, grad, torch.full_like(p, 1 / len(p)), k, 0) / exact,
                LARGEST: _left_out(x, grad, p, k) / exact,
            }
    return found


def variance(x: Tensor, grad: Tensor, p: Tensor, k: int, certain: int) -> float:
    """Expected squared Frobenius distance of the sampled weight gradient from the exact one, in closed form.

    Example:
        >>> x, grad = torch.eye(2).double(), torch.tensor([[1.0], [1.0]]).double()
        >>> variance(x, grad, torch.tensor([0.5, 0.5]).double(), k=1, certain=0)
        2.0
    """
    rest = p.argsort(descending=True)[certain:]
    x, grad, q = x[rest], grad[rest], p[rest] / p[rest].sum()
    squares = x.square().sum(1) * grad.square().sum(1)
    return ((squares / q).sum() - (grad.T @ x).square().sum()).item() / (k - certain)


def _left_out(x: Tensor, grad: Tensor, p: Tensor, k: int) -> float:
    """Squared bias of taking the k largest alone."""
    rest = p.argsort(descending=True)[k:]
    return (grad[rest].T @ x[rest]).square().sum().item()


def bytes_held(tuning: FineTuning) -> tuple[float, float]:
    """Bytes a token that autograd holds after a forward pass: for the blocks' linear layers, and for the whole model."""
    model, rows = tuning.model, tuning.batches[0]
    inputs = tuning.inputs[rows]
    tuning.norms.set_batch(rows)
    taken: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: taken.__setitem__(name, args[0].detach()))
        for name, layer in layers_of(model).items()
    ]
    whole = held_bytes(model, inputs)
    for handle in handles:
        handle.remove()
    single = sum(held_bytes(layer, taken[name], model=model) for name, layer in layers_of(model).items())
    return single / inputs.numel(), whole / inputs.numel()


def _variance_curves(found: Mapping[str, Mapping[str, float]]) -> list[Curve]:
    curves = []
    for ratio in RATIOS:
        cells = [cell for key, cell in found.items() if key.endswith(f"ratio {ratio}")]
        places = tuple(float(i + 1) for i in range(len(cells)))
        curves.append(Curve("variance", f"{ratio} of the rows", places, tuple(c[WTA] / c[CRS] for c in cells)))
    return curves


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
