"""The diagonal of a Hessian from products with random vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def hutchinson_diagonal(
    loss: Tensor,
    params: Sequence[Tensor],
    *,
    samples: int = 1,
    probes: Literal["rademacher", "normal"] = "rademacher",
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    r"""Hutchinson's unbiased estimate of the Hessian's diagonal, by double backward.

    .. math:: \hat h = \frac1S \sum_s u_s \odot (H u_s), \qquad \mathbb{E}\,u u^\top = I

    With Rademacher signs a diagonal Hessian comes out exactly from one sample, and the variance is never above that of normal
    probes. One sample costs about two gradients. Entries may be negative. The parameters' ``.grad`` is not touched.

    Args:
        loss: a scalar with its graph, twice differentiable. Fused attention kernels aren't: evaluate the model inside
            ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
        params: real tensors to differentiate by; those that the loss doesn't depend on get zeros.
        samples: probes S to average over.
        probes: random signs, or standard normal numbers.
        generator: source of the probes, on the parameters' device; ``None``: torch's own.

    Returns:
        One tensor for each parameter, of its shape and dtype.

    Raises:
        ValueError: ``samples`` below 1, unknown probes, or a complex parameter.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hutchinson_diagonal((x**3).sum(), [x])[0]
        tensor([ 6., 12.])
    """
    check_probes(samples, probes)
    params = list(params)
    if any(p.is_complex() for p in params):
        raise ValueError("Hutchinson's estimate is for real parameters")
    gradients = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    curved = [g for g in gradients if g.requires_grad]
    total = [torch.zeros_like(p, requires_grad=False) for p in params]
    for sample in range(samples if curved else 0):
        vectors = [_probe(p, probes, generator) for p in params]
        weights = [u for u, g in zip(vectors, gradients, strict=True) if g.requires_grad]
        products = torch.autograd.grad(
            curved, params, weights, retain_graph=sample < samples - 1, materialize_grads=True
        )
        for own, u, product in zip(total, vectors, products, strict=True):
            own.addcmul_(u, product, value=1 / samples)
    return total


def check_probes(samples: int, probes: str) -> None:
    """Raise a :class:`ValueError` for settings of :func:`hutchinson_diagonal` that it can't take."""
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a whole number >= 1, not {samples!r}")
    if probes not in ("rademacher", "normal"):
        raise ValueError(f"probes must be 'rademacher' or 'normal', not {probes!r}")


def _probe(like: Tensor, probes: str, generator: torch.Generator | None) -> Tensor:
    vector = torch.empty_like(like, requires_grad=False)
    if probes == "normal":
        return vector.normal_(generator=generator)
    return vector.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
