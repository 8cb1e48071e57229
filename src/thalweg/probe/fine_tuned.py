"""What a model would become under plain gradient descent on a few examples, for many runs at once; it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel


def fine_tuned(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    lrs: Tensor,
    epochs: int,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch_size: int | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    r"""Weights of many independent fine-tunings of one model after every epoch, by SGD without momentum.

    For run r with examples in the given order, batch after batch B: :math:`\theta \leftarrow \theta - \eta_r \nabla L_B(\theta)`.
    All runs go side by side (``torch.func.vmap``). The model's own weights are never touched.

    Args:
        model: maps a batch of inputs to outputs; must treat its examples independently.
        inputs: examples of each run, ``(runs, examples, ...)``.
        targets: ``(runs, examples, ...)``.
        lrs: step size of each run, ``(runs,)``.
        epochs: passes over the examples.
        loss: gets outputs and targets of a batch and gives its mean loss.
        batch_size: examples in a step, the last batch may be smaller; ``None``: all of them, full-batch gradient descent.
        masks: what is trained: tensors of zeros and ones by parameter name, of its shape or broadcasting to it; parameters that
            aren't named stay. ``None``: everything.

    Yields:
        Stacked weights by name, ``(runs, ...)``, after each epoch; for ``torch.func.functional_call`` under ``vmap``.

    Raises:
        ValueError: shapes disagree, there is no example, or a mask names no parameter.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> x, y = torch.ones(2, 4, 1), torch.zeros(2, 4, 1)
        >>> *_, last = fine_tuned(model, x, y, torch.tensor([0.0, 0.25]), 1, loss=nn.functional.mse_loss)
        >>> (last["weight"].flatten() / model.weight.item()).detach()  # the gradient is 2 w
        tensor([1.0000, 0.5000])
    """
    runs = len(lrs)
    if inputs.shape[:2] != targets.shape[:2] or len(inputs) != runs or not inputs.shape[1]:
        raise ValueError(
            "inputs and targets must be (runs, examples, ...) with a step size a run, not "
            f"{tuple(inputs.shape)}, {tuple(targets.shape)} and {runs}"
        )
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    masks = dict.fromkeys(own, torch.ones(())) if masks is None else masks
    if strange := [name for name in masks if name not in own]:
        raise ValueError(f"masks name no parameter of the model: {', '.join(strange)}")
    buffers = dict(model.named_buffers())
    current = {name: parameter.expand(runs, *parameter.shape).clone() for name, parameter in own.items()}

    def loss_of(moving: dict[str, Tensor], still: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, {**buffers, **still, **moving}, (x,)), y)

    gradients = vmap(grad(loss_of))
    size = inputs.shape[1] if batch_size is None else batch_size
    batches = list(zip(inputs.split(size, 1), targets.split(size, 1), strict=True))
    for _ in range(epochs):
        for x, y in batches:
            moving = {name: current[name] for name in masks}
            still = {name: weight for name, weight in current.items() if name not in masks}
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels can't be batched over runs
                slopes = gradients(moving, still, x, y)
            for name, slope in slopes.items():
                rate = lrs.to(slope).reshape(-1, *[1] * (slope.ndim - 1))
                current[name] = current[name] - rate * masks[name].to(slope) * slope
        yield dict(current)
