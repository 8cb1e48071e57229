"""The score of a program: a short training that stops early where it goes wrong (arXiv:2302.06675)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.optim.program_search.program import Program
from thalweg.optim.program_search.running import run_steps, steps_of

Params = Sequence[Tensor]


def cosine(step: int, steps: int) -> float:
    """The learning rate's schedule: from 1 towards 0 by half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class ShortTraining:
    """Scores a program by what it makes of a model within some steps; higher is better.

    A training that gives NaN or infinity, or whose loss exceeds the bound at one of its hurdles, ends at once with -inf.

    Args:
        start: the parameters' start values; they stay as they are.
        loss: ``loss(params, step)``, the loss of that step's batch.
        score: ``score(params)`` after the last step, without gradients.
        steps: updates.
        bound: largest loss that may go on.
        hurdles: the loss is looked at after each of these numbers of steps, and at the end; a look costs little, but makes an
            accelerator wait.
        schedule: ``schedule(step, steps)``: what the program finds as ``lr`` (default: half a cosine, from 1).

    Example:
        >>> from thalweg.optim.program_search import ADAMW, ShortTraining
        >>> start = [torch.tensor([1.0])]
        >>> task = ShortTraining(start, lambda p, step: p[0].square().sum(), lambda p: -p[0].abs().item(), steps=100)
        >>> round(task(ADAMW), 3)
        -0.739
    """

    start: Params
    loss: Callable[[Params, int], Tensor]
    score: Callable[[Params], float]
    steps: int
    bound: float = math.inf
    hurdles: tuple[int, ...] = (2, 5, 10, 20, 50)
    schedule: Callable[[int, int], float] = cosine

    def __call__(self, program: Program) -> float:
        """The score; -inf where the training was stopped."""
        flat, params = _joined(self.start, program.is_elementwise)
        m, v = ([torch.zeros_like(x) for x in flat] for _ in range(2))
        steps = steps_of(program)
        for step in range(self.steps):
            loss = self.loss(params, step)
            if (step in self.hurdles or step + 1 == self.steps) and not loss.item() <= self.bound:
                return -math.inf
            gradients: list[Tensor] = list(torch.autograd.grad(loss, params))
            with torch.no_grad():
                if len(flat) < len(params):
                    gradients = [torch.cat([g.flatten() for g in gradients])]
                updates, m, v = run_steps(steps, flat, gradients, m, v, self.schedule(step, self.steps))
                for x, update in zip(flat, updates, strict=True):
                    x -= update
        with torch.no_grad():
            if not all(bool(x.isfinite().all()) for x in flat):
                return -math.inf
            found = float(self.score(params))
        return found if math.isfinite(found) else -math.inf


def _joined(start: Params, join: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Copies of the start values as parameters, and the tensors that hold them: one for all where that makes no difference."""
    if not join or len({(p.dtype, p.device) for p in start}) > 1:
        params = [p.detach().clone() for p in start]
        return params, [p.detach().requires_grad_() for p in params]
    flat = torch.cat([p.detach().flatten() for p in start])
    parts = flat.split([p.numel() for p in start])
    return [flat], [part.view(p.shape).detach().requires_grad_() for part, p in zip(parts, start, strict=True)]
