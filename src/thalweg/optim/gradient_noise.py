"""Annealed Gaussian noise on the gradient (arXiv:1511.06807)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from thalweg.optim.engine import elementwise
from thalweg.registry import method


def noise_scale(step: int, eta: float = 0.01, gamma: float = 0.55, **_: Any) -> dict[str, float]:
    r"""Standard deviation at ``step`` = 1, 2, ...: ``sigma = sqrt(eta / step^gamma)``."""
    return {"sigma": (eta / step**gamma) ** 0.5}


@elementwise(prepare=noise_scale)
def add_gradient_noise(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    normal: Callable[[], Tensor],
    sigma: Any,
    eta: float = 0.01,
    gamma: float = 0.55,
    seed: int = 0,
) -> Tensor:
    r"""Add independent normal noise of a slowly falling variance.

    .. math:: g \leftarrow g + \mathcal{N}(0, \sigma_t^2), \qquad \sigma_t^2 = \eta / (1+t)^\gamma, \quad t = 0, 1, 2, \dots

    Put it first in a chain; clip gradients before the step, not after the noise. The noise is a function of (seed, step, position):
    every process of a data-parallel or sharded run adds the same, and a resumed run goes on with the same stream.

    Example:
        >>> from thalweg.optim import Chained, add_gradient_noise
        >>> p = nn.Parameter(torch.zeros(1000))
        >>> p.grad = torch.zeros(1000)
        >>> Chained([p], add_gradient_noise(eta=0.04, gamma=0.55, seed=0), lr=1.0).step()
        >>> 0.15 < p.std().item() < 0.25  # the root of eta at the first step
        True
    """
    return update + sigma * normal()


@method(
    "gradient_noise",
    search={"eta": ("log", 1e-6, 1.0)},
    use="Very deep networks that don't start to learn; with a good start seldom needed.",
)
def gradient_noise(eta: float = 0.01, gamma: float = 0.55, seed: int = 0) -> Any:
    r"""The transform that adds annealed Gaussian noise to the gradient (arXiv:1511.06807).

    .. math:: g \leftarrow g + \mathcal{N}(0, \sigma_t^2), \qquad \sigma_t^2 = \eta / (1+t)^\gamma, \quad t = 0, 1, 2, \dots

    Args:
        eta: variance at the first step (default 0.01; the paper tries 0.01, 0.3 and 1; modern nets want 1e-6 to 1e-3, and less
            under Adam, whose second moment the noise inflates).
        gamma: how fast the variance falls (default 0.55; 0: constant).
        seed: names the stream of noise (default 0).

    Returns:
        A transform, to put first in a chain or before a named optimizer. In parameter groups its settings are called
        ``noise_eta``, ``noise_gamma`` and ``noise_seed``.

    Example:
        >>> import torch
        >>> from thalweg.optim import SGD, gradient_noise
        >>> optimizer = SGD(torch.nn.Linear(4, 2), lr=0.1, before=gradient_noise(eta=1e-4))
    """
    return add_gradient_noise(eta=float(eta), gamma=float(gamma), seed=seed).rename(
        eta="noise_eta", gamma="noise_gamma", seed="noise_seed"
    )
