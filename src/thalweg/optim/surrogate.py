"""A model of the loss around a batch's outputs, which is evaluated without the loss (arXiv:2302.02607)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thalweg.autodiff.closure import Closure
from thalweg.autodiff.replayed_draws import ReplayedDraws
from thalweg.autodiff.unchanged_buffers import unchanged_buffers
from thalweg.optim.engine.gradient_norm import gradient_norm
from thalweg.optim.engine.sharding import local

ROUNDING = 1e-10
"""What a line search forgives, relative to the value: on a quadratic its condition may hold with equality (in float64)."""

MAX_TRIALS = 200
"""Trials of one line search in the weights."""


class Surrogate:
    """The model of the loss around the outputs of one batch; made by one pass, whose gradient it leaves in ``p.grad``.

    Args:
        closure: model, loss and batch.
        params: what the gradients are taken by.
        reduction: see :class:`TargetSurrogate`.
    """

    def __init__(self, closure: Closure, params: list[Tensor], reduction: str) -> None:
        self.closure, self.params, self.lr = closure, params, math.nan
        self._draws = ReplayedDraws(p.device for p in params)
        with torch.enable_grad():
            outputs = closure.outputs()
            if not isinstance(outputs, Tensor):
                raise TypeError(f"the model must give one tensor, not {type(outputs).__name__}")
            self.z = outputs.detach().clone()
            leaf = self.z.clone().requires_grad_()
            loss = closure.loss(leaf)
            (self.slope,) = torch.autograd.grad(loss, leaf)
            closure.backward((self.slope * (outputs - self.z)).sum())
        last = self.z.shape[-1] if self.z.ndim > 1 else 1
        self.terms = 1 if reduction == "sum" else max(1, self.z.numel() // max(1, last))
        self.own_loss = loss.detach()
        self.loss = self._mean(self.own_loss)
        self.queries = self.passes = 1
        if any(p.grad is not None and p.grad.layout is not torch.strided for p in params):
            raise RuntimeError("TargetSurrogate does not support sparse gradients (make the embedding dense)")
        if not (math.isfinite(self.loss) and math.isfinite(gradient_norm(params))):
            raise FloatingPointError(f"the loss ({self.loss}) or its gradient is not finite; nothing was changed")

    def check_outputs(self) -> None:
        """Raise unless a second pass at the same weights gives the same outputs."""
        with self._again():
            outputs = self.closure.outputs()
        bound = max(1e-6, 10 * torch.finfo(self.z.dtype).eps) * max(
            1.0, float(self.z.abs().amax()) if self.z.numel() else 0.0
        )
        if not torch.allclose(outputs, self.z, rtol=0.0, atol=bound):
            raise RuntimeError(
                "the model's outputs differ between two passes at the same weights; make it deterministic"
            )

    def differentiate(self) -> None:
        """Leave the gradient at the present weights in ``p.grad``."""
        with torch.enable_grad(), self._again():
            self.closure.backward(self._at(self.closure.outputs()))

    def value(self) -> float:
        """The surrogate at the present weights, less the loss at its centre."""
        with self._again():
            return self._mean(self._at(self.closure.outputs()))

    def lowers_loss(self, lr: float, c: float) -> bool:
        """Armijo's condition for a step of the outputs themselves."""
        self.queries += 1
        change = self.closure.loss(self.z - lr * self.terms * self.slope) - self.own_loss
        foretold = lr * self.terms * self.slope.square().sum()
        return self._mean(change + c * foretold) <= self.slack(self.loss)

    def slack(self, value: float) -> float:
        """By how much rounding may spoil a comparison of numbers of the size of ``value``."""
        return max(ROUNDING, 10 * torch.finfo(self.z.dtype).eps) * abs(value)

    def _at(self, outputs: Tensor) -> Tensor:
        moved = outputs - self.z
        return (self.slope * moved).sum() + moved.square().sum() / (2 * self.lr * self.terms)

    @contextmanager
    def _again(self) -> Iterator[None]:
        """A further pass over the batch: the same random draws, and no trace in buffers."""
        self.passes += 1
        with self._draws.again(), unchanged_buffers(self.closure.model):
            yield
        _reshard(self.closure.model)

    def _mean(self, value: Tensor) -> float:
        """Mean over the processes that share the batch."""
        if self.closure.num_processes > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return float(value) / self.closure.num_processes


def _reshard(model: nn.Module) -> None:
    """Under FSDP2 a root module keeps its gathered weights after a pass without backward; the next would not see new ones."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # loaded wherever a model is sharded
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


class LineSearch:
    """Gradient descent on a surrogate by Armijo's rule: the first trial is given, later ones start above the last step."""

    def __init__(self, surrogate: Surrogate, first: float, group: dict[str, Any]) -> None:
        self.surrogate, self.trial, self.value = surrogate, first, 0.0
        self.c, self.beta, self.expand = group["c"], group["beta"], group["expand"]

    def step(self, norm: float) -> bool:
        """A step along the gradient of this norm, and whether one was found; otherwise the weights stay."""
        params = [p for p in self.surrogate.params if p.grad is not None]
        here = [local(p).clone() for p in params]
        for _ in range(MAX_TRIALS):
            move(params, self.trial)
            value = self.surrogate.value()
            if value <= self.value - self.c * self.trial * norm**2 + self.surrogate.slack(self.value):
                self.value, self.trial = value, self.expand * self.trial
                return True
            for p, weight in zip(params, here, strict=True):
                local(p).copy_(weight)
            self.trial *= self.beta
        return False


def move(params: list[Tensor], by: float) -> None:
    """Gradient descent."""
    for p in params:
        if p.grad is not None:
            local(p).sub_(local(p.grad), alpha=by)
