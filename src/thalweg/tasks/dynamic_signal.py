r"""Images of patches, one of which holds a signal of unknown sign (arXiv:2403.15707).

The *dynamic signal distribution*: a label y of -1 or +1, a patch j of k, both uniform, and an image of k patches of d pixels,
noise everywhere and the signal, a fixed unit vector w*, in one of them:

.. math:: x^{(i)} = \sigma g_i + [i = j]\, y\, w^*, \qquad g_i \sim N(0, I_d).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class SignalImages(NamedTuple):
    """Labelled images.

    Args:
        x: images, ``(..., n, patches, patch_dim)``.
        y: labels -1 or +1, ``(..., n)``, of the images' dtype.
        patch: where the signal is, int64 ``(..., n)``.
        signal: w*, ``(..., patch_dim)``.
    """

    x: Tensor
    y: Tensor
    patch: Tensor
    signal: Tensor


def dynamic_signal(
    n: int,
    patches: int,
    patch_dim: int,
    noise_std: float,
    *,
    signal: Tensor | None = None,
    problems: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> SignalImages:
    r"""Labelled images with the signal in a random patch.

    Args:
        n: images.
        patches: k.
        patch_dim: d, pixels of a patch.
        noise_std: sigma. The paper lets it fall as :math:`1/\sqrt k`, or the signal drowns in the largest of k noises.
        signal: w*, ``(*problems, patch_dim)``, of length 1; ``None`` draws it uniformly from the sphere.
        problems: leading sizes; each has a signal and images of its own.
        generator: source of randomness.
        dtype: of images and labels.

    Raises:
        ValueError: a size below 1, negative noise, or a signal of another shape or length.

    Example:
        >>> images = dynamic_signal(5, 4, 3, 0.2)
        >>> images.x.shape, images.y.abs().unique()
        (torch.Size([5, 4, 3]), tensor([1.]))
    """
    if min(n, patches, patch_dim, *problems) < 1 or not noise_std >= 0:
        raise ValueError("sizes must be at least 1 and noise_std at least 0")
    if signal is None:
        drawn = torch.randn(*problems, patch_dim, generator=generator, dtype=dtype)
        signal = drawn / drawn.norm(dim=-1, keepdim=True)
    elif signal.shape != (*problems, patch_dim) or (signal.norm(dim=-1) - 1).abs().max() > 1e-4:
        raise ValueError(f"signal must have shape {(*problems, patch_dim)} and length 1")
    y = 2 * torch.randint(2, (*problems, n), generator=generator).to(dtype) - 1
    patch = torch.randint(patches, (*problems, n), generator=generator)
    x = noise_std * torch.randn(*problems, n, patches, patch_dim, generator=generator, dtype=dtype)
    there = torch.nn.functional.one_hot(patch, patches).to(dtype)
    x += (there * y.unsqueeze(-1)).unsqueeze(-1) * signal.to(dtype)[..., None, None, :]
    return SignalImages(x, y, patch, signal)


def bayes_score(x: Tensor, signal: Tensor, noise_std: float) -> Tensor:
    r"""Logarithm of the odds that y is +1.

    .. math:: \log \sum_i e^{z_i / \sigma^2} - \log \sum_i e^{-z_i / \sigma^2}, \qquad z_i = w^* \cdot x^{(i)}

    No rule errs less often than its sign, which knows w* but not the patch.

    Args:
        x: ``(..., n, patches, patch_dim)``.
        signal: w*, ``(..., patch_dim)``.
        noise_std: sigma, positive.

    Returns:
        ``(..., n)``.

    Example:
        >>> bayes_score(torch.tensor([[[2.0], [0.0]]]), torch.ones(1), 1.0)
        tensor([2.])
    """
    z = (x @ signal.unsqueeze(-1).unsqueeze(-3)).squeeze(-1) / noise_std**2
    return z.logsumexp(-1) - (-z).logsumexp(-1)


def linear_error(patches: int, noise_std: float) -> float:
    r"""Error of the best linear rule that treats all patches alike, the sign of :math:`\sum_i w^* \cdot x^{(i)}`.

    .. math:: \Phi\left(-\frac{1}{\sigma \sqrt k}\right)

    Args:
        patches: k.
        noise_std: sigma, positive.

    Example:
        >>> round(linear_error(8, 0.2), 4)
        0.0385
    """
    return math.erfc(1 / (noise_std * math.sqrt(2 * patches))) / 2


def oracle_error(patches: int, noise_std: float, threshold: float, *, step: float = 1e-3) -> float:
    r"""Error of the convolutional network whose filter is the signal: the sign of :math:`\sum_i \phi_b(w^* \cdot x^{(i)})`.

    The law of the sum, of k - 1 thresholded noises and one thresholded :math:`1 + \sigma g`, is a convolution, worked out on a
    lattice. An output of exactly 0 counts as half an error.

    Args:
        patches: k.
        noise_std: sigma, positive.
        threshold: b, at least 0.
        step: of the lattice; the result is good to about its square.

    Example:
        >>> round(100 * oracle_error(8, 0.2, 0.5), 2)
        0.37
    """
    if not (patches >= 1 and noise_std > 0 and threshold >= 0 and step > 0):
        raise ValueError("patches must be at least 1, noise_std and step positive and threshold at least 0")
    reach = 1 + 9 * noise_std * math.sqrt(patches)
    half = math.ceil(reach / step)
    size = 2 * half + 1
    edges = step * (torch.arange(size + 1, dtype=torch.float64) - half - 0.5)  # of bins around multiples of step

    def masses(mean: float) -> Tensor:
        above = edges + torch.where(edges > 0, threshold, -threshold)  # phi_b(z) <= edge is z <= above
        return torch.special.ndtr((above - mean) / noise_std).diff()

    padded = 2 ** math.ceil(math.log2(2 * size))

    def transform(mean: float) -> Tensor:
        laid = torch.zeros(padded, dtype=torch.float64)
        laid[torch.arange(-half, half + 1) % padded] = masses(mean)
        return torch.fft.rfft(laid)

    law = torch.fft.irfft(transform(0.0) ** (patches - 1) * transform(1.0), padded)
    return (law[padded // 2 :].sum() + law[0] / 2).item()
