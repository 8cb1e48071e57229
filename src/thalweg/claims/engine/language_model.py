"""The small language model of real text that several claims about optimizers train, and how they train it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.tasks.decoder import Decoder
from thalweg.tasks.docs_lm import as_bytes, next_byte_loss, spread, windows
from thalweg.tasks.docs_text import documents, split_documents
from thalweg.tasks.remembered import remembered

NEVER = 1.05
"""Share of the steps that stands for a loss that isn't reached."""

BROKEN = 10.0
"""Loss of a training that broke down, in nats a byte: worse than guessing, which has 5.55."""

Looking = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True)
class Size:
    """How large model and training are.

    Args:
        steps: updates.
        width: of the decoder, whose blocks have 4 heads.
        context: bytes that it reads at once.
        evaluations: of the validation loss, besides that of the start.
        valid_windows: windows that it is evaluated on.
        batch: windows in a step.
        blocks: of the decoder.
    """

    steps: int
    width: int
    context: int
    evaluations: int
    valid_windows: int
    batch: int = 16
    blocks: int = 2


@dataclass(frozen=True)
class Course:
    """A training: validation losses, in nats a byte, and the steps after which they were taken."""

    steps: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def final(self) -> float:
        """The last loss."""
        return self.losses[-1]

    def share_to(self, target: float) -> float:
        """The share of all steps after which the loss is at most ``target``, on straight lines between evaluations.

        :data:`NEVER` if it never is.

        Example:
            >>> Course((0.0, 10.0, 20.0), (4.0, 3.0, 2.0)).share_to(2.5)
            0.75
        """
        for place, loss in enumerate(self.losses):
            if loss <= target:
                if place == 0:
                    return 0.0
                last, before = self.steps[place - 1], self.losses[place - 1]
                reached = last + (self.steps[place] - last) * (before - target) / (before - loss)
                return reached / self.steps[-1]
        return NEVER


def decoder(size: Size) -> Decoder:
    """The model: pre-norm, learned positions, 256 bytes, all matrices from N(0, 0.02)."""
    return Decoder(context=size.context, embed_dim=size.width, num_heads=4, num_layers=size.blocks)


def train(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    seed: int,
    size: Size,
    *,
    model: Callable[[Size], nn.Module] = decoder,
    extra_loss: Callable[[nn.Module], Tensor] | None = None,
    look_every: int = 0,
    look: Looking | None = None,
) -> Course:
    """Train with a tenth of the steps as warm-up, then a cosine to a tenth of each group's learning rate.

    Start and order of the data depend on the seed alone, so that arms are paired.

    Args:
        make: gives the optimizer of a model.
        seed: of start and order.
        size: of everything.
        model: gives the model.
        extra_loss: what to add to the loss of a step.
        look_every: steps between calls of ``look``, the first one before the middle of the first stretch; 0: none.
        look: gets the number of the step and, for every matrix by name, by how much it moved, learning rate and all.
    """
    torch.manual_seed(seed)
    net = model(size)
    optimizer = make(net)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    inputs, targets = windows(_text()[0], size.context)
    valid = spread(*windows(_text()[1], size.context), size.valid_windows)
    draws = torch.Generator().manual_seed(seed)
    seen, losses = [0.0], [loss_of(net, *valid)]
    for step in range(size.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step, size.steps)
        rows = torch.randint(len(inputs), (size.batch,), generator=draws)
        loss = next_byte_loss(net(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        (loss if extra_loss is None else loss + extra_loss(net)).backward()
        looking = look is not None and look_every and step % look_every == look_every // 2
        before = {n: p.detach().clone() for n, p in net.named_parameters() if p.ndim >= 2} if looking else {}
        optimizer.step()
        if looking and look is not None:
            params = dict(net.named_parameters())
            look(step, {name: old - params[name].detach() for name, old in before.items()})
        if (step + 1) % max(1, size.steps // size.evaluations) == 0 or step + 1 == size.steps:
            seen.append(step + 1.0)
            losses.append(loss_of(net, *valid))
    return Course(tuple(seen), tuple(losses))


def factor(step: int, steps: int) -> float:
    """What the learning rate is multiplied by."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean loss; :data:`BROKEN` where it isn't finite, or higher than that."""
    value = next_byte_loss(model(inputs), targets).item()
    return min(value, BROKEN) if math.isfinite(value) else BROKEN


def best_rate(score: Callable[[float], float], exponents: tuple[float, ...], widen: int) -> float:
    """The learning rate with the lowest score, on a grid of exponents of ten that grows beyond an edge optimum.

    Args:
        score: of a learning rate.
        exponents: the first grid; a single one is taken as it is.
        widen: most points to add.
    """
    if len(exponents) == 1:
        return 10 ** exponents[0]
    return 10 ** best_on_log_grid(lambda grid: [score(10**e) for e in grid], exponents, widen=widen)


@remembered
def _text() -> tuple[Tensor, Tensor]:
    train_text, valid_text = split_documents(documents())
    return as_bytes(train_text), as_bytes(valid_text)
