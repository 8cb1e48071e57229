r"""Four Gaussian clusters labelled by XOR, with wrong labels (arXiv:2310.02541)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class XorClusters(NamedTuple):
    """What :func:`xor_clusters` gives.

    Args:
        X: points ``(n, dim)``.
        y: labels as observed, -1 or 1, ``(n,)``; some are wrong.
        clean: the right labels.
        centres: of the four clusters, ``(4, dim)``: mu_1, -mu_1, mu_2, -mu_2.

    Example:
        >>> from thalweg.tasks.xor_clusters import xor_clusters
        >>> xor_clusters(8, 3, 2.0).centres[:2]
        tensor([[ 2.,  0.,  0.],
                [-2., -0., -0.]])
    """

    X: Tensor
    y: Tensor
    clean: Tensor
    centres: Tensor


def xor_clusters(
    n: int,
    dim: int,
    mean_norm: float,
    flip: float = 0.0,
    *,
    balanced: bool = True,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> XorClusters:
    r"""Points :math:`x = c + \xi`, :math:`\xi \sim N(0, I)`, around four centres that no linear rule can tell apart by label.

    The centres are :math:`\pm\mu_1` with label 1 and :math:`\pm\mu_2` with label -1, orthogonal and of equal norm. They lie on the
    first two axes: noise is the same in all directions, so that any other pair would only be a rotation.

    Args:
        n: points, as many around each centre to within one.
        dim: coordinates, at least 2.
        mean_norm: norm of the centres.
        flip: share of wrong labels in y, in [0, 0.5).
        balanced: the same number of wrong labels in each cluster, ``flip`` times its size, rounded (default); otherwise each label
            is wrong independently of the others.
        dtype: of the points; ``None`` takes torch's default.
        generator: source of randomness. The noise doesn't depend on ``mean_norm`` or ``flip``.

    Returns:
        :class:`XorClusters`.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> data = xor_clusters(8, 100, 5.0, flip=0.25)
        >>> data.X.shape, (data.y != data.clean).sum().item()  # half a label a cluster is rounded to none
        (torch.Size([8, 100]), 0)
        >>> data.clean
        tensor([ 1.,  1., -1., -1.,  1.,  1., -1., -1.])
    """
    if n < 4 or dim < 2:
        raise ValueError(f"at least four points of two coordinates are needed, not {n} of {dim}")
    if not 0 < mean_norm < math.inf:
        raise ValueError(f"mean_norm must be a positive number, not {mean_norm}")
    if not 0 <= flip < 0.5:
        raise ValueError(f"flip must lie in [0, 0.5), not {flip}")
    dtype = dtype or torch.get_default_dtype()
    noise = torch.randn(n, dim, generator=generator, dtype=dtype)
    chance = torch.rand(n, generator=generator, dtype=torch.float64)
    centres = torch.zeros(4, dim, dtype=dtype)
    centres[0, 0] = centres[2, 1] = mean_norm
    centres[1::2] = -centres[::2]
    cluster = torch.arange(n) % 4
    clean = torch.where(cluster < 2, 1.0, -1.0).to(dtype)
    wrong = chance < flip
    if balanced:
        wrong = torch.zeros(n, dtype=torch.bool)
        for k in range(4):
            members = (cluster == k).nonzero()[:, 0]
            wrong[members[chance[members].argsort()[: round(flip * len(members))]]] = True
    return XorClusters(centres[cluster] + noise, torch.where(wrong, -clean, clean), clean, centres)


def linear_rule_accuracy(theta: Tensor, centres: Tensor) -> float:
    r"""How often the sign of :math:`\theta \cdot x` is the right label of a fresh point, in closed form.

    .. math:: \tfrac14 \sum_c \Phi\big(y_c\, \theta \cdot c / \lVert\theta\rVert\big)

    with the normal distribution function. The centres come in pairs c, -c of one label, so this is 1/2 for every direction.

    Args:
        theta: weights ``(dim,)``, not all zero.
        centres: those of :class:`XorClusters`, or others with labels 1, 1, -1, -1, ``(4, dim)``.

    Example:
        >>> from thalweg.tasks.xor_clusters import linear_rule_accuracy, xor_clusters
        >>> linear_rule_accuracy(torch.tensor([3.0, 1.0]), xor_clusters(4, 2, 1.0).centres)
        0.5
    """
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    ahead = signs * (centres.double() @ theta.double()) / theta.double().norm()
    return torch.special.ndtr(ahead).mean().item()
