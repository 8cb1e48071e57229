"""Running a program on numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.program_search.functions import FUNCTIONS
from thalweg.optim.program_search.program import OUTPUTS, Program

Tensors = Sequence[Tensor]
Step = tuple[Callable[..., Any], bool, str, tuple[str | Tensor, ...]]


def steps_of(program: Program) -> tuple[Step, ...]:
    """The program in the form that runs: function, whether it sees all tensors at once, target, arguments.

    Raises:
        ValueError: the program can't run; the message says why.
    """
    if program.problem is not None:
        raise ValueError(program.problem)
    return tuple(
        (
            FUNCTIONS[line.function].compute,
            FUNCTIONS[line.function].scope == "all",
            line.target,
            tuple(a if isinstance(a, str) else torch.tensor(a, dtype=torch.float64) for a in line.arguments),
        )
        for line in program.simplified().lines
    )


def run_steps(
    steps: Sequence[Step], w: Tensors, g: Tensors, m: Tensors, v: Tensors, lr: float | Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """One call of the program for a list of parameter tensors, line by line over all of them.

    Numbers are worked out in float64 on the host, tensors in their own dtype, which the results have too.

    Args:
        steps: see :func:`steps_of`.
        w, g, m, v: weights, gradients and buffers, one tensor each for every parameter.
        lr: the scheduled learning rate.

    Returns:
        Updates to subtract, and the new buffers.
    """
    rate = torch.as_tensor(lr, dtype=torch.float64)
    known: dict[str, Sequence[Tensor]] = {"w": w, "g": g, "m": m, "v": v, "lr": [rate] * len(w)}
    for compute, sees_all, target, arguments in steps:
        given = [known[a] if isinstance(a, str) else [a] * len(w) for a in arguments]
        if sees_all:
            known[target] = compute(*given)
        elif given:
            known[target] = [compute(*values) for values in zip(*given, strict=True)]
        else:
            known[target] = [compute()] * len(w)
    update, m, v = ([x.to(like.dtype) for x, like in zip(known[name], w, strict=True)] for name in OUTPUTS)
    return update, m, v
