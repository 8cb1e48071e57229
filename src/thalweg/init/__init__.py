"""Starts: functions that set a model's parameters in place before training, as ``torch.nn.init`` does."""

from thalweg.init.aligned_linear import aligned_linear_
from thalweg.init.low_rank import aligned_low_rank_, low_rank_matched_
from thalweg.init.orthogonal import orthogonal_

__all__ = ["aligned_linear_", "aligned_low_rank_", "low_rank_matched_", "orthogonal_"]
