"""Find what is wrong with a task before a race trains on it: one batch forward and backward, and one evaluation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg.tasks.check_data import SAMPLE, check_data, first_batch, shapes
from thalweg.tasks.fault import one_line, user_line
from thalweg.tasks.task import Task, TaskError


def check_task(task: Task) -> None:
    """Run one small batch through model, loss and gradient, and one through the metric, on the CPU.

    Where training batches are smaller than that, one of them is tried too. Torch's global random state is the same afterwards.
    A task that passes trains at least one step.

    Args:
        task: what to check.

    Raises:
        TaskError: one line that says what is wrong and, for a task from a file, in which line of it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from thalweg.tasks import Task, check_task
        >>> X = torch.randn(40, 3); y = torch.full((40,), 7)
        >>> check_task(Task("t", lambda: nn.Linear(3, 5), (X, y), (X, y), nn.functional.cross_entropy, batch_size=8))
        Traceback (most recent call last):
        ...
        thalweg.tasks.task.TaskError: t: loss(outputs, targets) raised IndexError: Target 7 is out of bounds. \
(outputs (32, 5) float32, targets (32,) int64)
    """
    where = task.source or task.name
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(0)
        train = check_data(task, "train", where)
        valid = check_data(task, "valid", where)
        _check_numbers(task, where)
        model = _check_model(task, where)
        _check_step(task, model, *train, where)
        if task.batch_size < SAMPLE:  # batch normalization, for one, can't train on a single example
            _check_step(
                task, model, *first_batch(task, task.batch_size, where), where, f" with batch_size={task.batch_size}"
            )
        _check_metric(task, model, *valid, where)


def _check_numbers(task: Task, where: str) -> None:
    size = len(task.train)  # type: ignore[arg-type]
    if task.batch_size > size:
        raise TaskError(f"{where}: batch_size is {task.batch_size}, but train has {size} examples")
    if task.eval_every is not None and (not isinstance(task.eval_every, int) or task.eval_every < 1):
        raise TaskError(f"{where}: eval_every must be a positive whole number or None, not {task.eval_every!r}")
    if task.target is not None and (not isinstance(task.target, Real) or not math.isfinite(task.target)):
        raise TaskError(f"{where}: target must be a finite number or None, not {task.target!r}")


def _check_model(task: Task, where: str) -> nn.Module:
    first, second = (_call(task.model, (), "model()", where) for _ in range(2))
    for built in (first, second):
        if not isinstance(built, nn.Module):
            raise TaskError(f"{where}: model() must return a torch.nn.Module, not {type(built).__name__}")
    parameters = list(first.parameters())
    if any(is_lazy(p) for p in parameters):
        raise TaskError(f"{where}: model() has lazy parameters without a shape; run one batch through it in model()")
    if not any(p.requires_grad for p in parameters):
        raise TaskError(f"{where}: model() has no trainable parameters")
    if {id(p) for p in parameters} & {id(p) for p in second.parameters()}:
        raise TaskError(f"{where}: model() must build a fresh model at every call, but two calls share parameters")
    return first


def _check_step(task: Task, model: nn.Module, inputs: Any, targets: Any, where: str, which: str = "") -> None:
    """One forward and backward pass in training mode."""
    model.zero_grad()
    outputs = _call(model.train(), (inputs,), f"model(inputs){which}", where, f"inputs {shapes(inputs)}")
    seen = f"outputs {shapes(outputs)}, targets {shapes(targets)}"
    with _broadcasting_is_an_error():
        loss = _call(task.loss, (outputs, targets), f"loss(outputs, targets){which}", where, seen)
    if not isinstance(loss, Tensor):
        raise TaskError(f"{where}: loss(outputs, targets) must return a scalar tensor, not {type(loss).__name__}")
    if loss.ndim:
        raise TaskError(f"{where}: loss(outputs, targets) must be a scalar, not of shape {tuple(loss.shape)} ({seen})")
    if not loss.requires_grad:
        raise TaskError(f"{where}: loss(outputs, targets) is not differentiable: it doesn't depend on the parameters")
    if not loss.isfinite():
        raise TaskError(f"{where}: loss(outputs, targets) is {loss.item()} at the start ({seen})")
    _call(loss.backward, (), f"loss.backward(){which}", where, seen)
    _check_gradients(model, where)


def _check_gradients(model: nn.Module, where: str) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if not gradients:
        raise TaskError(f"{where}: the loss has no gradient for any parameter of model()")
    for name, gradient in gradients.items():
        if not gradient.isfinite().all():
            raise TaskError(f"{where}: the loss is finite at the start but its gradient for {name} is not")


@torch.no_grad()
def _check_metric(task: Task, model: nn.Module, inputs: Any, targets: Any, where: str) -> None:
    """One evaluation, in evaluation mode, as the race does it."""
    metric, name = (task.loss, "loss") if task.metric is None else (task.metric, "metric")
    outputs = _call(model.eval(), (inputs,), "model(inputs) on valid", where, f"inputs {shapes(inputs)}")
    seen = f"outputs {shapes(outputs)}, targets {shapes(targets)}"
    with _broadcasting_is_an_error():
        value = _call(metric, (outputs, targets), f"{name}(outputs, targets) on valid", where, seen)
    scalar = _number(value)
    if scalar is None:
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise TaskError(f"{where}: metric(outputs, targets) must return one number, not {type(value).__name__}{shape}")
    if not math.isfinite(scalar):
        raise TaskError(f"{where}: {name}(outputs, targets) on valid is {scalar} at the start ({seen})")


@contextmanager
def _broadcasting_is_an_error() -> Iterator[None]:
    """Losses that broadcast (n, 1) against (n,) measure nonsense, and torch only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size", category=UserWarning)
        yield


def _number(value: Any) -> float | None:
    """``value`` as a float if it is one real number, plain or of torch or numpy."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiub":
        return float(value.item())
    return float(value) if isinstance(value, Real) else None


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], call: str, where: str, seen: str = "") -> Any:
    """Call the user's function; an exception becomes one line with the line of the user's file."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        end = f" ({seen})" if seen else ""
        raise TaskError(f"{user_line(error, where)}: {call} raised {one_line(error)}{end}") from error
