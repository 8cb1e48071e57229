"""A score written as a fixed affine function of a denoiser (arXiv:2401.15604)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class DenoiserScore(nn.Module):
    r"""The score that belongs to an estimate of the clean data.

    For :math:`X_t = \alpha(t) X_0 + \sqrt{h(t)} Z` and :math:`f(t, x) \approx E[X_0 | X_t = x]`,

    .. math:: s(t, x) = \frac{\alpha(t) \, \Pi_D(f(t, x)) - x}{h(t)}

    with :math:`\Pi_D` the projection to the ball of radius D. Denoising score matching of s with the weight
    :math:`h^2 / \alpha^2` is then least squares of :math:`\Pi_D f` on the clean data.

    Args:
        denoiser: f, called as ``denoiser(t, x)``; a module's parameters are this module's.
        alpha: of times; ``None`` is exp(-t / 2), the Ornstein-Uhlenbeck process.
        h: variance of the noise, of times; ``None`` is 1 - alpha^2.
        radius: D, a bound of the clean data; ``None`` projects nothing.
        trunc: inputs longer than that get f = 0; ``None`` is no such bound.

    Shape:
        times ``(...)`` and inputs ``(..., d)`` to ``(..., d)``.

    Raises:
        ValueError: ``radius`` or ``trunc`` isn't positive, or a time has no noise.

    Example:
        >>> score = DenoiserScore(lambda t, x: torch.zeros_like(x))  # all data at the origin
        >>> score(torch.tensor([100.0]), torch.tensor([[1.0, 2.0]]))
        tensor([[-1., -2.]])
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        alpha: Callable[[Tensor], Tensor] | None = None,
        h: Callable[[Tensor], Tensor] | None = None,
        radius: float | None = None,
        trunc: float | None = None,
    ) -> None:
        super().__init__()
        for name, bound in (("radius", radius), ("trunc", trunc)):
            if bound is not None and not bound > 0:
                raise ValueError(f"{name} must be positive, not {bound}")
        self.denoiser, self.alpha, self.h = denoiser, alpha, h
        self.radius, self.trunc = radius, trunc

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """See the class."""
        alpha = (-t / 2).exp() if self.alpha is None else self.alpha(t)
        h = 1 - alpha.square() if self.h is None else self.h(t)
        if not bool((h > 0).all()):
            raise ValueError("there is no score without noise: h(t) must be positive, so t too")
        estimate = self.denoiser(t, x)
        if self.trunc is not None:
            estimate = estimate.where(x.norm(dim=-1, keepdim=True) <= self.trunc, 0.0)
        if self.radius is not None:
            length = estimate.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            estimate = estimate * (self.radius / length).clamp(max=1.0)
        return (alpha.unsqueeze(-1) * estimate - x) / h.unsqueeze(-1)
