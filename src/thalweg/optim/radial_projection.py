"""Taking the radial part out of updates of scale-invariant weights, which can only make them longer (arXiv:2006.08217)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, layerwise
from thalweg.optim.engine.once import once
from thalweg.optim.engine.watching import watch

View = Literal["channel", "layer"]


def radial_sums(update: Tensor, param: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """For every row (first dimension): <p, g>, |p|^2, |g|^2, <p, u> and the number of elements.

    Nothing for tensors of fewer than two dimensions, which are never projected.
    """
    if param.ndim < 2:
        return ()
    rest = tuple(range(1, param.ndim))
    products = (param * gradient, param * param, gradient * gradient, param * update)
    count = param.new_full(param.shape[:1], param[:1].numel() if len(param) else 0)
    return *(x.sum(dim=rest) for x in products), count


@layerwise(sums=radial_sums, switch="project")
def radial_projection(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    sums: tuple[Tensor, ...] | None,
    *,
    rows: slice,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    project: bool = True,
) -> Tensor:
    r"""Project the update onto the tangent space of weights that look scale invariant, and decay those less (arXiv:2006.08217).

    Weights whose scale changes nothing have gradients orthogonal to them. A tensor counts as such if the cosine between the step's
    gradient g (not its running mean) and the weights p is small in *every* row of k elements; else if it is small over the
    whole tensor, taken as one row:

    .. math::
        \max_r \frac{|\langle p_r, g_r\rangle|}{\max(\|p_r\|, \epsilon)\max(\|g_r\|, \epsilon)} < \frac{\delta}{\sqrt k}
        \;\Rightarrow\; u_r \leftarrow u_r - n_r \langle n_r, u_r\rangle,\; n_r = \frac{p_r}{\|p_r\| + \epsilon},
        \qquad u \leftarrow u + \lambda \rho\, p

    where the decay's factor :math:`\rho` is ``wd_ratio`` for projected tensors and 1 for others. Rows are those of the first
    dimension. Biases, gains and scalars are never projected, nor are groups with ``project=False``. Weight decay belongs to this
    transform, since its strength follows from the test; it acts on the old weights.

    Example:
        >>> from thalweg.optim import Chained, radial_projection
        >>> p = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> p.grad = torch.tensor([[5.0, 0.0]])
        >>> Chained([p], radial_projection(delta=2.0), lr=1.0).step()
        >>> p.data
        tensor([[-0.2000,  6.4000]])
    """
    if not sums:
        return update + weight_decay * param
    channel, layer = _tests(sums, delta, eps)
    radial = torch.where(channel, _radial(sums, eps), torch.where(layer, _radial(_totals(sums), eps), 0.0))
    one = param.new_ones(())
    decay = weight_decay * torch.where(channel | layer, wd_ratio * one, one)
    factor = once((decay - radial[rows]).to(update.dtype))
    return update + factor.view(-1, *[1] * (param.ndim - 1)) * param


@layerwise(sums=radial_sums, switch="project")
def momentum_projection(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    sums: tuple[Tensor, ...] | None,
    *,
    rows: slice,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    eps: float = 1e-8,
    project: bool = True,
) -> Tensor:
    r"""``radial_projection`` after a momentum buffer: the decay is :math:`\lambda / (1-\mu)`, as strong as coupled decay, which goes
    through the buffer, is in the long run.

    Example:
        >>> from thalweg.optim import Chained, momentum_projection
        >>> p = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> p.grad = torch.tensor([[5.0, 0.0]])
        >>> Chained([p], momentum_projection(delta=2.0), lr=1.0).step()
        >>> p.data
        tensor([[-0.2000,  6.4000]])
    """
    test = {"delta": delta, "wd_ratio": wd_ratio, "eps": eps}
    decay = weight_decay / (1 - momentum)
    return radial_projection.update(update, param, state, sums, rows=rows, weight_decay=decay, **test)


def _tests(sums: tuple[Tensor, ...], delta: Any, eps: Any) -> tuple[Tensor, Tensor]:
    """Whether all rows pass, and whether the tensor as one row passes: two flags that stay on the device."""
    return _orthogonal(sums, delta, eps).all(), _orthogonal(_totals(sums), delta, eps)


def _totals(sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(s.sum() for s in sums)


def _orthogonal(sums: tuple[Tensor, ...], delta: Any, eps: Any) -> Tensor:
    weight_gradient, weight, gradient, _, count = sums
    cosine = weight_gradient.abs() / (weight.sqrt().clamp(min=eps) * gradient.sqrt().clamp(min=eps))
    return cosine < delta / count.sqrt()


def _radial(sums: tuple[Tensor, ...], eps: Any) -> Tensor:
    """How much of the weights the update contains."""
    _, weight, _, weight_update, _ = sums
    return weight_update / (weight.sqrt() + eps) ** 2


def project_radial(
    param: Tensor, gradient: Tensor, update: Tensor, delta: float = 0.1, eps: float = 1e-8
) -> tuple[Tensor, View | None]:
    """What :func:`radial_projection` does to one tensor, and by which view.

    Args:
        param, gradient, update: tensors of one shape; none is changed.
        delta: threshold of the cosine, in units of that of random vectors (default 0.1).
        eps: lower bound of the norms (default 1e-8).

    Returns:
        The update, projected or as it was, and "channel", "layer" or None.

    Example:
        >>> p, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, -3.0]])
        >>> project_radial(p, g, torch.tensor([[1.0, 1.0]]))
        (tensor([[ 0.1600, -0.1200]]), 'channel')
    """
    sums = radial_sums(update, param, gradient)
    view = _view(sums, delta, eps)
    if view is None:
        return update, None
    radial = _radial(sums if view == "channel" else _totals(sums), eps)
    return update - radial.view(-1, *[1] * (param.ndim - 1)) * param, view


def _view(sums: tuple[Tensor, ...] | None, delta: Any, eps: Any) -> View | None:
    if not sums:
        return None
    channel, layer = _tests(sums, delta, eps)
    return "channel" if channel else "layer" if layer else None


def radial_projections(optimizer: ChainedOptimizer) -> dict[str, View | None]:
    """Which parameters the next step would project, given the gradients as they are: by which view, or None.

    A net without normalization layers shows mostly None, and gains nothing from the projection.

    Args:
        optimizer: one with such a projection in its chain: ``AdamP``, ``SGDP``. It is not changed; for a
            moment there is a copy of its parameters and state. Under FSDP2 all processes must call this together.

    Returns:
        By name (or by number, for parameters given without names): "channel", "layer" or None; only parameters with a gradient.

    Example:
        >>> from torch import nn
        >>> from thalweg.optim import AdamP
        >>> model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))
        >>> optimizer = AdamP(model)
        >>> model(torch.randn(16, 4)).exp().mean().backward()
        >>> radial_projections(optimizer)["0.weight"]
        'channel'
    """

    def look(sums: tuple[Tensor, ...] | None, keywords: dict[str, Any]) -> View | None:
        return _view(sums, keywords["delta"], keywords["eps"])

    return watch(optimizer, {radial_projection: look, momentum_projection: look})
