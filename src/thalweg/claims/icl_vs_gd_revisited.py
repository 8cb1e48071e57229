"""Learning in context against gradient descent on the same examples, by two papers' measures on the same two models.

arXiv:2212.07677 finds that learning in context is gradient descent, in linear attention trained on prompts; arXiv:2310.08540
finds that it is not, in pre-trained language models. Here both are asked of both: a layer of linear attention as the former
trains it, and a small language model that learnt to recall from its context although nothing trained that as such. On the
latter stand also the measures of arXiv:2212.10559, which finds learning in context and fine-tuning alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.claims import icl_gradient_descent as prompted
from thalweg.claims.engine import attention_updates
from thalweg.claims.engine import recall_model as recall
from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.probe import fine_tuned, order_sensitivity, token_overlap, weight_sparsity
from thalweg.tasks.decoder import Decoder
from thalweg.tasks.regression_prompts import linear_prompts

RULE = """\
Two models: linear attention trained on regression prompts (the control, in which both papers' views should meet) and a small
language model pre-trained on documents. In the latter, tasks of 8 pairs of a key and a value: retrieval of 8 different keys,
and conflict, where 4 keys have two values each. Gradient descent trains on the same 8 pairs, without context: full batch, one
pair at a time, and full batch in the last block alone; of all these, step sizes and epochs the one most like learning in
context is taken for each task, which favours the hypothesis that the paper denies. Compared are the 10 likeliest tokens.
1. Control: the order of examples changes nothing (standard deviation at most 1e-6), and for the best step size the
   derivatives by the query have a mean cosine of at least 0.99 with gradient descent's, at the worst seed.
2. Gap: in both kinds of task, mean over seeds, gradient descent shares at least 0.1 fewer of the 10 likeliest tokens with
   learning in context than learning in context with another order of the examples does.
3. Order: in one kind of task the probabilities' standard deviation over orders, mean over seeds, is more than 5 times as
   large in context as for gradient descent pair by pair, which is the paper's direction.
Not testable: the language model recalls fewer than 90% of the values in some seed, or part 1 fails. Reproduced: all. Partly: 2
or 3. Not reproduced: neither. The paper gives no sizes: 0.1 is one token of ten, and 5 lies beyond the ratios of 0.02 to 2.1
that trial runs on other seeds gave, with gaps of 0.11 to 0.3.
Second version, with the same thresholds. In the first, documents held 4 to 8 pairs, and of seeds 1 to 3 the first never learnt
to recall: 12% after 1,500 steps, as if guessing one of the values shown ("not testable"; the others got 98% and 100% after
700 and 850). Documents of 1 to 8 pairs taught it to all six seeds of trial runs in 350 to 450 steps. New seeds.
Third version, with the same thresholds and parts. The second gave "partly" on seeds 11 to 13, with ratios in part 3 of 1.5 and 1.2;
by seed those of retrieval were 0.7, 2.1 and 12.6, which it didn't say, and its reason, that descent pair by pair always depends
on the order, was contradicted by its own figure, where that dependence falls a hundredfold within a run. Added are ratios by
seed; as a control of part 3 the same comparison at the first test that found half of the recalls right (tests are now 25 steps
apart, not 50); and what arXiv:2212.10559 measures, on this model as well, which decides nothing here: SimAOU, the cosine
between the changes that context and fine-tuning (keys' and values' matrices, one pass, the best step size for each network)
make to attention's outputs. Above the cosine of the untrained network by 0.1, it would speak for that paper. New seeds.
After that version's run on them the reason's wording alone was changed: the earlier checkpoint and the change over epochs, until
then told only where part 3 fails, are told always, and gaps by seed where part 2 fails. The word and its rule are the same."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=8),
    "cpu": Scale(seeds=(21, 22, 23), seconds=240),
    "gpu": Scale(seeds=(31, 32, 33), seconds=1150),
}

PANELS = (
    Panel("overlap", "The 10 likeliest outcomes", "epochs of gradient descent", "share in common with context"),
    Panel("cosine", "Derivatives by the query", "epochs of gradient descent", "cosine with those in context"),
    Panel(
        "order",
        "Does the order of examples matter?",
        "epochs of gradient descent",
        "deviation of probabilities",
        log="y",
    ),
    Panel("pretraining", "The language model learns to recall", "training steps", "share of recalls that are right"),
)

KINDS: tuple[recall.Kind, ...] = ("retrieval", "conflict")
TOP = 10


@dataclass(frozen=True)
class Size:
    prompted: prompted.Size
    most_steps: int
    """Of pre-training."""
    tasks: int
    lrs: tuple[float, ...]
    epochs: int
    every: int
    """Epochs between comparisons."""
    orders: int
    width: int = 64
    """Of the language model."""
    layers: int = 2


SIZES = {
    "smoke": Size(prompted.Size(((5, 20), (5, 20)), 16, 1, 100), 4, 2, (0.1, 0.3), 2, 1, 2),
    "cpu": Size(prompted.Size(((300, 1200), (300, 1200)), 64, 1, 1024), 1500, 4, (0.01, 0.03, 0.1, 0.3, 1.0), 24, 3, 5),
    "gpu": Size(
        prompted.Size(((2000, 10_000), (2000, 10_000)), 512, 1, 10_000, dim=10),
        4000,
        32,
        (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        60,
        4,
        10,
        width=128,
        layers=3,
    ),
}
"""At gpu scale a larger language model, the control of the paper's own dimension, its 10 orders, and a longer and finer search."""


def run(scale: str, seed: int, *, report: Report) -> Measurement:
    """Train both models, then compare context and gradient descent in each."""
    size = SIZES[scale]
    draws = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    stack, _ = prompted.train(
        "one layer", size.prompted, draws, lambda share: report(0.15 * share, "training attention")
    )
    numbers, curves = _in_attention(stack, size, draws)
    learnt = recall.pretrain(
        seed,
        size.most_steps,
        width=size.width,
        layers=size.layers,
        progress=lambda share: report(0.15 + 0.35 * share, "pre-training the language model"),
    )
    numbers["recall"] = learnt.recall[-1]
    curves.append(Curve("pretraining", "language model", learnt.steps, learnt.recall))
    for name, model in (("linear attention", stack), ("language model", learnt.model)):
        shares = weight_sparsity(model)
        numbers[f"share of entries near 0/{name}"] = statistics.mean(shares.values())
    for i, kind in enumerate(KINDS):
        progress = partial(_part, report, i, kind)
        some_numbers, some_curves = _in_language(learnt.model, kind, size, draws, progress)
        numbers |= some_numbers | _earlier(learnt.early, kind, size, draws)
        curves += some_curves
    numbers |= {"recall, earlier": learnt.early_recall} | _attention_updates(learnt, size, draws)
    ends = (0.0, float(size.epochs))
    curves += [
        Curve(panel, "if it were gradient descent", ends, (1.0, 1.0), "theory") for panel in ("overlap", "cosine")
    ]
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def mean(name: str) -> float:
        return statistics.mean(m.numbers[name] for m in measurements)

    recalled = min(m.numbers["recall"] for m in measurements)
    flat = max(m.numbers["order deviation/linear attention"] for m in measurements)
    cosine = min(m.numbers["cosine/linear attention"] for m in measurements)
    gaps = {k: mean(f"overlap of another order/{k}") - mean(f"overlap of descent/{k}") for k in KINDS}
    ratios, earlier = _ratios(measurements, ""), _ratios(measurements, ", earlier")
    seeds = {k: ", ".join(f"{_ratios([m], '')[k]:.1f}" for m in measurements) for k in KINDS}
    because = (
        f"Control: deviation over orders {flat:.0e} (at most 1e-6), cosine {cosine:.4f} (at least 0.99). Language model: recalls "
        f"{recalled:.0%} (at least 90%); gradient descent shares {_list(gaps)} fewer of the 10 likeliest tokens (at least 0.1 in "
        f"both), order matters {_list(ratios)} times as much in context (above 5 in one; by seed "
        f"{' and '.join(seeds.values())}). {_when_order_matters(measurements, earlier)} {_updates(measurements)}"
    )
    if recalled < 0.9 or not (flat <= 1e-6 and cosine >= 0.99):
        absent = (
            "the language model hasn't learnt in context" if recalled < 0.9 else "the control shows that measures fail"
        )
        return Verdict("not testable at this scale", f"{because} Likely reason: {absent}.")
    gap, order = min(gaps.values()) >= 0.1, max(ratios.values()) > 5
    if gap and order:
        return Verdict("reproduced", because)
    if gap:
        return Verdict("partly", f"{because} Likely reason: {_why_no_order(earlier)}.")
    if order:
        by_seed = {
            k: [m.numbers[f"overlap of another order/{k}"] - m.numbers[f"overlap of descent/{k}"] for m in measurements]
            for k in KINDS
        }
        ranges = " and ".join(f"{min(g):.2f} to {max(g):.2f} ({k})" for k, g in by_seed.items())
        return Verdict("partly", f"{because} Likely reason: gaps lie about the limit, over seeds {ranges}.")
    return Verdict(
        "not reproduced at this scale", f"{because} Likely reason: recall in so small a model is too simple."
    )


def _ratios(measurements: list[Measurement], when: str) -> dict[recall.Kind, float]:
    """Deviation over orders in context over that of descent pair by pair, both in the mean over seeds."""

    def mean(name: str) -> float:
        return statistics.mean(m.numbers[name] for m in measurements)

    return {
        k: mean(f"order deviation in context{when}/{k}") / max(mean(f"order deviation of SGD{when}/{k}"), 1e-12)
        for k in KINDS
    }


def _when_order_matters(measurements: list[Measurement], earlier: dict[recall.Kind, float]) -> str:
    """How much the ratio hangs on when it is taken: at the earlier checkpoint, and over descent's epochs."""
    share = statistics.mean(m.numbers["recall, earlier"] for m in measurements)
    falls = {
        k: statistics.median(
            m.numbers[f"largest order deviation of SGD/{k}"] / m.numbers[f"least order deviation of SGD/{k}"]
            for m in measurements
        )
        for k in KINDS
    }
    told = " and ".join(f"{fall:.0f} ({k})" for k, fall in falls.items())
    return (
        f"That hangs on when one looks: descent's own deviation changes {told} times over its epochs (median), and at an "
        f"earlier checkpoint, which recalls {share:.0%}, order matters {_list(earlier)} times as much in context."
    )


def _why_no_order(earlier: dict[recall.Kind, float]) -> str:
    """What the earlier checkpoint says of it."""
    if max(earlier.values()) > 5:
        return "recall that is nearly certain hardly depends on the order, for at the earlier checkpoint it did"
    return "descent's deviation hangs on the epoch; that recall is nearly certain isn't it, as the earlier checkpoint shows"


def _updates(measurements: list[Measurement]) -> str:
    """What the measures of arXiv:2212.10559 say, which decide nothing here."""
    trained, start = ([m.numbers[f"SimAOU/{name}"] for m in measurements] for name in ("trained", "untrained"))
    more = statistics.mean(trained) - statistics.mean(start)
    corrected, both = (
        sum(m.numbers[f"answers that {what}"] for m in measurements)
        for what in ("fine-tuning corrects", "fine-tuning and context correct")
    )
    return (
        f"Not decisive: attention's outputs change as by fine-tuning with a cosine (SimAOU) of {statistics.mean(trained):.2f}, "
        f"untrained {statistics.mean(start):.2f}, so {'more' if more >= 0.1 else 'not 0.1 more'} for training; of the {corrected:.0f} "
        f"answers that fine-tuning corrects context corrects {both:.0f}."
    )


def _list(values: dict[recall.Kind, float]) -> str:
    return " and ".join(f"{value:.2f} ({kind})" for kind, value in values.items())


def _part(report: Report, i: int, kind: str, share: float) -> None:
    report(0.5 + 0.25 * (i + share), f"comparing on {kind}")


def _in_attention(stack: nn.Module, size: Size, draws: torch.Generator) -> tuple[dict[str, float], list[Curve]]:
    """The control. Outcomes are 64 candidate queries, in proportion to the exponential of what is predicted for them."""
    tasks, candidates = 8 * size.tasks, 64
    prompts = linear_prompts(
        tasks, prompted.N, size.prompted.dim, inputs="uniform", generator=draws, dtype=torch.float32
    )
    queries = torch.rand(tasks, candidates, size.prompted.dim, generator=draws) * 2 - 1

    def tokens(order: Tensor, asked: Tensor) -> Tensor:
        shown = torch.cat([prompts.X, prompts.y.unsqueeze(2)], 2)[:, order].unsqueeze(1)
        question = torch.cat([asked, torch.zeros_like(asked[..., :1])], 2).unsqueeze(2)
        return torch.cat([shown.expand(-1, candidates, -1, -1), question], 2)

    as_shown = torch.arange(prompted.N)
    asked = queries.clone().requires_grad_()
    predicted = stack(tokens(as_shown, asked))
    (slopes,) = torch.autograd.grad(predicted.sum(), asked)
    context = predicted.detach().softmax(-1)
    deviation = order_sensitivity(
        lambda order: stack(tokens(order, queries)).softmax(-1).flatten(0, 1), prompted.N, size.orders, draws
    )
    lrs = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    w = torch.zeros(len(lrs), tasks, size.prompted.dim)
    overlaps, cosines = [], []
    for _ in range(size.epochs):
        residuals = torch.einsum("tnd,ltd->ltn", prompts.X, w) - prompts.y
        w = w - lrs[:, None, None] * torch.einsum("tnd,ltn->ltd", prompts.X, residuals) / prompted.N
        outcomes = torch.einsum("tqd,ltd->ltq", queries, w).nan_to_num().softmax(-1)
        overlaps.append(token_overlap(context, outcomes, TOP).mean(-1))
        cosines.append(nn.functional.cosine_similarity(slopes, w.unsqueeze(2), dim=-1).mean((1, 2)))
    x = tuple(float(epoch + 1) for epoch in range(size.epochs))
    found = {"overlap": torch.stack(overlaps), "cosine": torch.stack(cosines)}
    curves = [
        Curve(panel, "linear attention", x, tuple(values.max(1).values.tolist())) for panel, values in found.items()
    ]
    numbers = {f"{panel}/linear attention": values.max().item() for panel, values in found.items()}
    return numbers | {"order deviation/linear attention": deviation.std}, curves


def _in_language(
    model: Decoder, kind: recall.Kind, size: Size, draws: torch.Generator, progress: Callable[[float], None]
) -> tuple[dict[str, float], list[Curve]]:
    tasks = recall.recall_tasks(kind, size.tasks, draws)
    context = recall.predict(model, tasks.prompts())
    wanted = context.argmax(-1)
    slopes = _derivatives(model, dict(model.named_parameters()), tasks.prompts().flatten(0, 1), wanted.flatten())
    slopes = slopes.unflatten(0, wanted.shape)
    orders = [torch.randperm(recall.PAIRS, generator=draws) for _ in range(size.orders)]
    again = [token_overlap(context, recall.predict(model, tasks.prompts(o)), TOP).mean() for o in orders]
    last = {
        name: torch.ones(()) for name, _ in model.named_parameters() if name.startswith(f"blocks.{size.layers - 1}.")
    }
    arms: dict[str, tuple[int | None, dict[str, Tensor] | None]] = {
        "full batch": (None, None),
        "last block": (None, last),
        "pair by pair": (1, None),
    }
    found: dict[str, Tensor] = {}
    cosines, right = torch.zeros(0), torch.zeros(0)
    for i, (arm, (batch, masks)) in enumerate(arms.items()):
        overlaps, turns, hits = [], [], []
        for weights in _course(model, tasks, size, batch, masks):
            guesses = _predictions(model, weights, tasks)
            overlaps.append(token_overlap(context, guesses, TOP).mean(-1))
            hits.append((guesses.argmax(-1) == tasks.answers).float().mean(-1))
            if arm == "full batch":
                questions = tasks.questions().expand(len(size.lrs), -1, -1, -1).flatten(0, 1)
                goals = wanted.expand(len(size.lrs), -1, -1).flatten(0, 1)
                with sdpa_kernel(SDPBackend.MATH):
                    own = vmap(partial(_derivatives, model))(weights, questions, goals)
                own = own.unflatten(0, (len(size.lrs), -1))
                turns.append(nn.functional.cosine_similarity(slopes, own, dim=-1).mean((1, 2)))
        found[arm] = torch.stack(overlaps).nan_to_num()  # (epochs, lrs, tasks)
        if turns:
            cosines, right = torch.stack(turns).nan_to_num(-1.0), torch.stack(hits)
        progress((i + 1) / 4)
    best = torch.cat([values.flatten(0, 1) for values in found.values()]).max(0).values
    in_context = order_sensitivity(
        lambda order: recall.predict(model, tasks.prompts(order)).flatten(0, 1), recall.PAIRS, 2 * size.orders, draws
    ).std
    by_pair, deviations = _order_of_descent(model, tasks, found["pair by pair"], orders, size)
    numbers = {
        f"overlap of descent/{kind}": best.mean().item(),
        f"overlap of another order/{kind}": statistics.mean(share.item() for share in again),
        f"overlap without context/{kind}": token_overlap(context, recall.predict(model, tasks.questions()), TOP)
        .mean()
        .item(),
        f"cosine/{kind}": cosines.max().item(),
        f"accuracy in context/{kind}": recall.accuracy(context, tasks.answers),
        f"accuracy of descent/{kind}": right.mean(-1).max().item(),
        f"order deviation in context/{kind}": in_context,
        f"order deviation of SGD/{kind}": by_pair,
        f"largest order deviation of SGD/{kind}": max(deviations),
        f"least order deviation of SGD/{kind}": min(deviations),
    } | {f"overlap of descent, {arm}/{kind}": v.flatten(0, 1).max(0).values.mean().item() for arm, v in found.items()}
    x = tuple(float(size.every * (k + 1)) for k in range(len(cosines)))
    ends = (0.0, float(size.epochs))
    each = torch.stack([values.mean(-1).max(1).values for values in found.values()]).max(0).values
    name, dotted = f"language model, {kind}", f"{kind}: another order"
    lines: list[tuple[str, str, tuple[float, ...], tuple[float, ...], Role]] = [
        ("overlap", name, x, tuple(each.tolist()), "measured"),
        ("overlap", dotted, ends, (numbers[f"overlap of another order/{kind}"],) * 2, "control"),
        ("cosine", name, x, tuple(cosines.max(1).values.tolist()), "measured"),
        ("order", f"{kind}, gradient descent", x, tuple(deviations), "measured"),
        ("order", f"{kind}, in context", ends, (max(in_context, 1e-12),) * 2, "measured"),
    ]
    return numbers, [Curve(panel, label, at, values, role) for panel, label, at, values, role in lines]


def _earlier(model: Decoder, kind: recall.Kind, size: Size, draws: torch.Generator) -> dict[str, float]:
    """The control: how much the order matters, in context and to descent pair by pair, before recall is nearly certain."""
    tasks = recall.recall_tasks(kind, size.tasks, draws)
    context = recall.predict(model, tasks.prompts())
    orders = [torch.randperm(recall.PAIRS, generator=draws) for _ in range(size.orders)]
    courses = _course(model, tasks, size, 1, None)
    overlaps = [token_overlap(context, _predictions(model, weights, tasks), TOP).mean(-1) for weights in courses]
    by_pair, _ = _order_of_descent(model, tasks, torch.stack(overlaps).nan_to_num(), orders, size)
    in_context = order_sensitivity(
        lambda order: recall.predict(model, tasks.prompts(order)).flatten(0, 1), recall.PAIRS, 2 * size.orders, draws
    ).std
    return {
        f"order deviation in context, earlier/{kind}": in_context,
        f"order deviation of SGD, earlier/{kind}": by_pair,
    }


def _attention_updates(learnt: recall.Pretrained, size: Size, draws: torch.Generator) -> dict[str, float]:
    """arXiv:2212.10559's measures, on the trained network and on the same one before training."""
    tasks = recall.recall_tasks("retrieval", 2 * size.tasks, draws)
    trained = attention_updates.compare(learnt.model, tasks, size.lrs)
    return {
        "SimAOU/trained": trained.sim_aou,
        "SimAOU/untrained": attention_updates.compare(learnt.start, tasks, size.lrs).sim_aou,
        "answers that fine-tuning corrects": float(trained.corrected),
        "answers that fine-tuning and context correct": float(trained.by_both),
    }


def _course(
    model: Decoder, tasks: recall.Tasks, size: Size, batch: int | None, masks: dict[str, Tensor] | None
) -> list[dict[str, Tensor]]:
    """Weights after some epochs, runs in the order of step sizes, then tasks."""
    pairs = tasks.pairs.repeat(len(size.lrs), 1, 1)
    rates = torch.tensor(size.lrs).repeat_interleave(size.tasks)
    return _every(model, pairs, rates, size, batch, masks)


def _every(
    model: Decoder, pairs: Tensor, rates: Tensor, size: Size, batch: int | None, masks: dict[str, Tensor] | None
) -> list[dict[str, Tensor]]:
    tuning = fine_tuned(
        model,
        pairs[:, :, :1],
        pairs[:, :, 1],
        rates,
        size.epochs,
        loss=recall.answer_loss,
        batch_size=batch,
        masks=masks,
    )
    return [weights for epoch, weights in enumerate(tuning, 1) if epoch % size.every == 0]


def _predictions(model: Decoder, weights: dict[str, Tensor], tasks: recall.Tasks) -> Tensor:
    """Probabilities without context, ``(runs / tasks, tasks, queries, 64)``; uniform where a run broke down."""

    def one(own: dict[str, Tensor], questions: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, own, (questions,))[:, -1]
        return logits.nan_to_num(0.0, 0.0, 0.0).softmax(-1)

    runs = len(weights["head.weight"])
    questions = tasks.questions().repeat(runs // len(tasks.pairs), 1, 1)
    with sdpa_kernel(SDPBackend.MATH):
        return vmap(one)(weights, questions).unflatten(0, (-1, len(tasks.pairs)))


def _derivatives(model: Decoder, weights: dict[str, Tensor], prompts: Tensor, wanted: Tensor) -> Tensor:
    """Of the log probability of a wanted token by the embedding of the last token of its prompt, ``(prompts, width)``."""

    def log_probability(shift: Tensor) -> Tensor:
        def moved(module: nn.Module, args: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
            return torch.cat([embedded[:, :-1], embedded[:, -1:] + shift.unsqueeze(1)], 1)

        handle = model.embed.register_forward_hook(moved)
        try:
            logits = functional_call(model, weights, (prompts,))[:, -1]
        finally:
            handle.remove()
        return logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).sum()

    slopes: Tensor = grad(log_probability)(torch.zeros(len(prompts), model.embed.embedding_dim))
    return slopes


def _order_of_descent(
    model: Decoder, tasks: recall.Tasks, overlaps: Tensor, orders: list[Tensor], size: Size
) -> tuple[float, list[float]]:
    """Deviation of gradient descent pair by pair over orders: at each task's best epoch, and after every few epochs.

    Each task has the step size with which it comes nearest to learning in context.
    """
    epochs, per_task = overlaps.max(1).values.max(0).indices, overlaps.max(0).values.max(0).indices
    rates = torch.tensor(size.lrs)[per_task]
    courses = []
    for order in orders:
        stacks = _every(model, tasks.pairs[:, order], rates, size, 1, None)
        courses.append(torch.stack([_predictions(model, weights, tasks)[0] for weights in stacks]))
    spread = torch.stack(courses).std(0, correction=0).mean((-2, -1))  # (epochs, tasks)
    chosen = spread.gather(0, epochs.unsqueeze(0)).mean().item()
    return (chosen if math.isfinite(chosen) else math.inf), spread.mean(1).clamp(min=1e-12).tolist()
