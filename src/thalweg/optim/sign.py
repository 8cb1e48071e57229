"""The sign that hides nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1, and NaN for NaN and infinities (``torch.sign`` gives 0 and 1, which would hide them: the weight stands still or
    walks on for ever, while its momentum is lost)."""
    return torch.sign(x).add_(x, alpha=0)
