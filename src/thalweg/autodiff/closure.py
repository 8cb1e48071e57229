"""One batch of one model, for optimizers that must look at it more than once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Closure:
    r"""What ``optimizer.step(closure)`` calls: the loss on one batch, to be evaluated as often as the rule needs.

    Calling it does what every torch closure does: gradients to zero, forward, backward, and the loss is returned. Rules that
    need more than ``p.grad`` find the pieces here: curvature needs the loss with its graph or labels of its own choice,
    target-based surrogates need the outputs apart from the loss, sharpness-aware rules call it twice. An optimizer that can't
    do without says so by the class attribute ``needs_closure = True``; a race then passes one at every step.

    Args:
        model: the module that is trained; ``model(inputs)`` gives ``outputs``.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar, the **mean** over the batch's terms.
        inputs: what the model takes; tensors, or dicts, lists and tuples of them, examples along the first dimension.
        targets: the same.
        backward: ``backward(loss)`` fills ``p.grad``; ``None``: ``loss.backward()``. With Fabric: ``fabric.backward``.
        zero_grad: drops all ``p.grad``; ``None``: ``model.zero_grad()``. With FSDP2: ``optimizer.zero_grad``, since between a
            forward and its backward pass the module holds other, gathered parameters.
        num_processes: processes that share the batch, each having its part. ``backward`` then leaves the mean over them in
            ``p.grad``, as DDP and FSDP2 do.

    Raises:
        ValueError: ``num_processes`` below 1.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> closure = Closure(net, nn.functional.mse_loss, torch.ones(4, 2), torch.zeros(4, 1))
        >>> loss = torch.optim.LBFGS(net.parameters()).step(closure)
        >>> closure.outputs().shape
        torch.Size([4, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        backward: Callable[[Tensor], Any] | None = None,
        zero_grad: Callable[[], Any] | None = None,
        num_processes: int = 1,
    ) -> None:
        if num_processes < 1:
            raise ValueError(f"num_processes must be at least 1, not {num_processes}")
        self.model, self.loss_fn = model, loss_fn
        self.inputs, self.targets = inputs, targets
        self.num_processes = num_processes
        self._backward = backward
        self._zero_grad = model.zero_grad if zero_grad is None else zero_grad

    def outputs(self) -> Any:
        """A forward pass."""
        return self.model(self.inputs)

    def loss(self, outputs: Any = None, targets: Any = None) -> Tensor:
        """The loss with its graph, of a new forward pass and the batch's targets where nothing else is given."""
        outputs = self.outputs() if outputs is None else outputs
        return self.loss_fn(outputs, self.targets if targets is None else targets)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradient of ``loss``, and of nothing else, in the parameters' ``.grad``."""
        self._zero_grad()
        if self._backward is None:
            loss.backward()
        else:
            self._backward(loss)

    def __call__(self) -> Tensor:
        """The loss, with its gradient in the parameters' ``.grad``."""
        loss = self.loss()
        self.backward(loss)
        return loss.detach()

    def head(self, count: int | None) -> Closure:
        """The same on the batch's first ``count`` examples; ``None``: on all."""
        if count is None:
            return self
        inputs, targets = _head(self.inputs, count), _head(self.targets, count)
        return Closure(
            self.model,
            self.loss_fn,
            inputs,
            targets,
            backward=self._backward,
            zero_grad=self._zero_grad,
            num_processes=self.num_processes,
        )


def _head(value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        return value[:count]
    if isinstance(value, dict):
        return {key: _head(item, count) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_head(item, count) for item in value)
    return value
