"""Layers and blocks as ``torch.nn`` modules, and converters that put them into an existing model."""

from thalweg.nn.column_row_sampling import wta_crs_select
from thalweg.nn.denoiser_score import DenoiserScore
from thalweg.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, convert_ghost_batchnorm
from thalweg.nn.grad_norm_cache import GradNormCache
from thalweg.nn.gradient_descent_attention import gradient_descent_attention
from thalweg.nn.latent_attention import LatentCache, MultiheadLatentAttention, rotary_embedding
from thalweg.nn.linear_attention import LinearSelfAttention
from thalweg.nn.mean_field_quadratic import MeanFieldQuadratic
from thalweg.nn.mixture_of_experts import MixtureOfExperts, StackedExperts
from thalweg.nn.momentum_attention import MomentumAttention, MomentumCache, ema_values, split_icl_update
from thalweg.nn.pair_mlp import PairMLP, centred_squared_loss
from thalweg.nn.patch_classifier import PatchClassifier, local_signal_adaptivity
from thalweg.nn.random_features import RandomFeatures
from thalweg.nn.tract import TrActConv2d, TrActLinear, convert_tract, tract_weight_grad
from thalweg.nn.two_layer_ntk import TwoLayerNTK
from thalweg.nn.wta_crs import WTACRSLinear, convert_wta_crs

__all__ = [
    "DenoiserScore",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GradNormCache",
    "LatentCache",
    "LinearSelfAttention",
    "MeanFieldQuadratic",
    "MixtureOfExperts",
    "MomentumAttention",
    "MomentumCache",
    "MultiheadLatentAttention",
    "PairMLP",
    "PatchClassifier",
    "RandomFeatures",
    "StackedExperts",
    "TrActConv2d",
    "TrActLinear",
    "TwoLayerNTK",
    "WTACRSLinear",
    "centred_squared_loss",
    "convert_ghost_batchnorm",
    "convert_tract",
    "convert_wta_crs",
    "ema_values",
    "gradient_descent_attention",
    "local_signal_adaptivity",
    "rotary_embedding",
    "split_icl_update",
    "tract_weight_grad",
    "wta_crs_select",
]
