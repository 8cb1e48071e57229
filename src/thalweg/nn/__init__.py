"""Layers and blocks as ``torch.nn`` modules, and converters that put them into an existing model."""

from thalweg.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, convert_ghost_batchnorm
from thalweg.nn.latent_attention import LatentCache, MultiheadLatentAttention, rotary_embedding
from thalweg.nn.linear_attention import LinearSelfAttention
from thalweg.nn.mixture_of_experts import MixtureOfExperts, StackedExperts
from thalweg.nn.tract import TrActConv2d, TrActLinear, convert_tract, tract_weight_grad

__all__ = [
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "LatentCache",
    "LinearSelfAttention",
    "MixtureOfExperts",
    "MultiheadLatentAttention",
    "StackedExperts",
    "TrActConv2d",
    "TrActLinear",
    "convert_ghost_batchnorm",
    "convert_tract",
    "rotary_embedding",
    "tract_weight_grad",
]
