"""One layer of filters over image patches: shared by all patches, one for each, or over the whole image (arXiv:2403.15707)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sharing = Literal["conv", "local", "full"]


def local_signal_adaptivity(z: Tensor, threshold: float | Tensor) -> Tensor:
    r"""Soft threshold, :math:`\phi_b(z) = \mathrm{relu}(z - b) - \mathrm{relu}(-z - b)`: noise below b is silenced.

    Args:
        z: any shape.
        threshold: b, at least 0; a tensor is broadcast.

    Raises:
        ValueError: a negative number.

    Example:
        >>> local_signal_adaptivity(torch.tensor([1.0, -1.0, 0.3]), 0.4)
        tensor([ 0.6000, -0.6000,  0.0000])
    """
    if isinstance(threshold, Tensor):
        return z - z.clamp(min=-threshold, max=threshold)
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, not {threshold}")
    return z - z.clamp(min=-threshold, max=threshold)


def patch_responses(x: Tensor, weight: Tensor, sharing: Sharing) -> Tensor:
    r"""Filters times patches, for one or many networks.

    Args:
        x: ``(..., n, k, d)``.
        weight: filters of B networks: ``(..., B, d)`` if ``sharing`` is "conv", ``(..., B, k, d)`` if "local",
            ``(..., B, units, k, d)`` if "full".
        sharing: whether one filter sees every patch, each patch has a filter of its own, or filters see the whole image.

    Returns:
        ``(..., B, n, k)``; for "full" ``(..., B, n, units)``.

    Example:
        >>> patch_responses(torch.ones(5, 4, 3), torch.ones(1, 3), "conv").shape
        torch.Size([1, 5, 4])
    """
    if sharing == "conv":
        flat = x.flatten(-3, -2) @ weight.mT  # (..., n k, B)
        return flat.unflatten(-2, x.shape[-3:-1]).movedim(-1, -3)
    if sharing == "local":
        return (x.transpose(-3, -2) @ weight.movedim(-3, -1)).movedim(-1, -3).mT  # (..., k, n, B) before it is turned
    units = weight.shape[-3]
    flat = x.flatten(-2) @ weight.flatten(-2).flatten(-3, -2).mT  # (..., n, B units)
    return flat.unflatten(-1, (-1, units)).transpose(-3, -2)


class PatchClassifier(nn.Module):
    r"""Sum of thresholded responses of unit-length filters; the sign is the predicted label.

    .. math::
        f(x) = e^s \sum_{i=1}^k \phi_b(u_i \cdot x^{(i)}), \qquad u = w / \|w\|, \qquad
        \text{conv: } w_i = w; \quad \text{local: } w_i \in R^d; \quad \text{full: } w_i \in R^{kd}, \text{ seeing all of } x

    with :math:`\phi_b` of :func:`local_signal_adaptivity`. "conv" has d weights, "local" k d, "full" k² d; each contains the one
    before. A layer without weight sharing isn't in torch itself.

    Args:
        patches: k, also the number of units of "full".
        patch_dim: d.
        sharing: "conv", "local" or "full".
        threshold: b, an attribute that may be changed while training (default 0, where all three are linear).
        log_scale: start of s, a learned number that leaves the sign as it is.
        device, dtype: of the parameters.

    Shape:
        input ``(n, patches, patch_dim)``, output ``(n,)``.

    Raises:
        ValueError: an unknown ``sharing``, a size below 1, a negative threshold, or images of another shape.

    Example:
        >>> net = PatchClassifier(4, 3, "local", threshold=0.2)
        >>> net(torch.randn(5, 4, 3)).shape, net.weight.shape
        (torch.Size([5]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        patches: int,
        patch_dim: int,
        sharing: Sharing = "conv",
        threshold: float = 0.0,
        log_scale: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if sharing not in get_args(Sharing):
            raise ValueError(f"sharing must be one of {', '.join(get_args(Sharing))}, not {sharing!r}")
        if min(patches, patch_dim) < 1:
            raise ValueError(f"patches and patch_dim must be at least 1, not {patches} and {patch_dim}")
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, not {threshold}")
        self.patches, self.patch_dim, self.sharing, self.threshold = patches, patch_dim, sharing, threshold
        shape = {"conv": (), "local": (patches,), "full": (patches, patches)}[sharing]
        self.weight = nn.Parameter(torch.empty(*shape, patch_dim, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.full((), log_scale, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw normal filters of mean square length 1."""
        fan_in = self.patch_dim * (self.patches if self.sharing == "full" else 1)
        nn.init.normal_(self.weight, std=fan_in**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1:] != (self.patches, self.patch_dim):
            raise ValueError(f"images must have shape (n, {self.patches}, {self.patch_dim}), not {tuple(x.shape)}")
        unit = unit_filters(self.weight, self.sharing)
        responses = patch_responses(x, unit.unsqueeze(0), self.sharing).squeeze(0)
        return self.log_scale.exp() * local_signal_adaptivity(responses, self.threshold).sum(-1)

    def extra_repr(self) -> str:
        return f"{self.patches}, {self.patch_dim}, sharing={self.sharing!r}, threshold={self.threshold}"


def unit_filters(weight: Tensor, sharing: Sharing) -> Tensor:
    """Every filter divided by its length.

    Args:
        weight: as in :func:`patch_responses`, or without the dimension of networks.
        sharing: see there; filters of "full" end in two dimensions, the others in one.

    Example:
        >>> unit_filters(torch.tensor([[3.0, 4.0]]), "local")
        tensor([[0.6000, 0.8000]])
    """
    if sharing == "full":
        return F.normalize(weight.flatten(-2), dim=-1).view_as(weight)
    return F.normalize(weight, dim=-1)
