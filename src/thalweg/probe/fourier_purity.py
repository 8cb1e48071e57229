"""Whether the weights of a hidden unit are a wave of one frequency (arXiv:2509.21519)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class FourierPurity(NamedTuple):
    """What :func:`fourier_purity` gives, ``(K,)`` each.

    Args:
        purity: the largest share that one frequency has of a unit's power, between 0 and 1; 0 for a unit without power.
        frequency: which one, from 1.
        power: of all frequencies but 0.

    Example:
        >>> from thalweg.probe import fourier_purity
        >>> fourier_purity(torch.eye(10)[:, :1]).purity  # one symbol of five: both frequencies alike
        tensor([0.5000])
    """

    purity: Tensor
    frequency: Tensor
    power: Tensor

    @property
    def mean(self) -> float:
        """Mean purity of the units, each weighted by its power."""
        return ((self.purity * self.power).sum() / self.power.sum()).item() if bool(self.power.sum() > 0) else 0.0


def fourier_purity(weights: Tensor, blocks: int = 2) -> FourierPurity:
    r"""Share of the strongest frequency in each unit's weights on the symbols 0 to M - 1.

    .. math:: \max_{k \ge 1} \frac{P_k}{\sum_{l \ge 1} P_l}, \qquad P_k = \sum_{\mathrm{blocks}} |\hat w_k|^2

    over the frequencies up to M/2; the constant part doesn't count. One frequency must be strong in all blocks together, so a unit
    that has another frequency for each of its two inputs isn't pure.

    Args:
        weights: of units on one-hot codes side by side, ``(blocks * M, K)``.
        blocks: how many codes there are (default 2).

    Returns:
        :class:`FourierPurity`.

    Raises:
        ValueError: the rows can't be cut into as many blocks of at least three.

    Example:
        >>> wave = torch.cos(2 * torch.pi * 3 * torch.arange(11) / 11)
        >>> found = fourier_purity(torch.cat([wave, -wave]).unsqueeze(1))
        >>> round(found.purity.item(), 5), found.frequency.item()
        (1.0, 3)
    """
    rows = weights.shape[0]
    if weights.dim() != 2 or rows % blocks or rows // blocks < 3:
        raise ValueError(f"weights must be ({blocks} M, K) with M of at least 3, not {tuple(weights.shape)}")
    spectrum = torch.fft.rfft(weights.detach().unflatten(0, (blocks, -1)), dim=1).abs().square().sum(0)[1:]
    power = spectrum.sum(0)
    largest, at = spectrum.max(0)
    return FourierPurity(torch.where(power > 0, largest / power.clamp(min=1e-38), 0.0), at + 1, power)
