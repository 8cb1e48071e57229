"""How a network stretches small changes of its input: the singular values of its Jacobian (arXiv:1312.6120)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.autodiff import eval_mode


def jacobian_singular_values(model: nn.Module, inputs: Tensor, *, chunk: int = 16) -> Tensor:
    r"""Singular values of :math:`\partial f(x) / \partial x` at every input, in descending order.

    The gradient at the input is the gradient at the output times this Jacobian, so values far from 1 mean exploding or
    vanishing gradients, and a wide spread means that they survive in a few directions only. Inputs and outputs may
    have any shape; they are flattened.

    Args:
        model: evaluation mode, left as it was; no parameter gets a gradient.
        inputs: ``(batch, ...)``.
        chunk: inputs differentiated at once.

    Returns:
        ``(batch, min(out, in))``, on the inputs' device.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> net.weight = nn.Parameter(torch.tensor([[0.0, 3.0], [0.5, 0.0]]))
        >>> jacobian_singular_values(net, torch.zeros(1, 2))
        tensor([[3.0000, 0.5000]])
    """
    values = []
    with eval_mode(model):
        for some in inputs.detach().split(chunk):
            x = some[:, None]
            with torch.enable_grad():
                size = model(some[:1]).numel()
                repeated = x.expand(-1, size, *x.shape[2:]).flatten(0, 1).requires_grad_()  # one copy for each output
                outputs = model(repeated).view(len(some), size, size)
                total = outputs.diagonal(dim1=1, dim2=2).sum()
            (rows,) = torch.autograd.grad(total, repeated)
            values.append(torch.linalg.svdvals(rows.view(len(some), size, -1)))
    return torch.cat(values)
