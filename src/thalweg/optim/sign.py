"""The sign that keeps NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1, and NaN for NaN (``torch.sign`` gives 0, which would freeze a weight without a word)."""
    return torch.where(x == x, torch.sign(x), x)
