"""Update rules: gradient in, parameters changed.

Every optimizer is a chain of transforms run by one engine (:mod:`thalweg.optim.engine`); ``Chained`` makes one of your own.
"""

from thalweg.optim.adabelief import AdaBelief, adabelief_amsgrad_direction, adabelief_direction
from thalweg.optim.adagrad import Adagrad, adagrad_direction
from thalweg.optim.adagrad_norm import AdagradNorm
from thalweg.optim.adamp import AdamP
from thalweg.optim.adamw import AdamW, adam_direction
from thalweg.optim.auon import AuON, HybridAuON, cosh_damping, cosh_rms
from thalweg.optim.coherent_gradients import MicroBatchGradients, median_of_three, rolling_median, winsorized_mean
from thalweg.optim.dct_adamw import DCTAdamW
from thalweg.optim.diffgrad import DiffGrad, diffgrad_direction
from thalweg.optim.engine import (
    Chain,
    Chained,
    ChainedOptimizer,
    EngineOptions,
    Transform,
    elementwise,
    layerwise,
    matrix,
    optimizer_state_bytes,
)
from thalweg.optim.factory import create, list_optimizers
from thalweg.optim.fira import Fira
from thalweg.optim.frugal import Frugal
from thalweg.optim.galore import GaLore, bias_corrected
from thalweg.optim.gradient_clipping import clip_gradient_norm
from thalweg.optim.gradient_noise import add_gradient_noise, gradient_noise
from thalweg.optim.gradient_normalized_smoothness import gradient_regularized_newton
from thalweg.optim.groups import hidden_matrices, param_groups_layer_decay, param_groups_weight_decay
from thalweg.optim.lamb import Lamb, layerwise_groups
from thalweg.optim.lars import Lars
from thalweg.optim.learning_rates import suggest_lr
from thalweg.optim.lion import Lion, interpolated_momentum, lion_direction
from thalweg.optim.lion_k import LionK, kernel_gradient, matrix_kernel_gradient, tensor_kernel_gradient
from thalweg.optim.matrix_optimizer import muon_groups
from thalweg.optim.momentum import SGD, momentum
from thalweg.optim.multi_task_sam import MultiTaskSAM, mean_gradient
from thalweg.optim.muon import Muon, orthogonalize
from thalweg.optim.natural_galore import NaturalGaLore, natural_gradient
from thalweg.optim.normuon import NorMuon, normalize_neurons
from thalweg.optim.program_search import Program, ProgramOptimizer, program_direction, search_optimizers
from thalweg.optim.radial_projection import momentum_projection, project_radial, radial_projection, radial_projections
from thalweg.optim.regularized_newton import GradientRegularizedNewton
from thalweg.optim.sam import SAM
from thalweg.optim.sgdp import SGDP
from thalweg.optim.sophia import SophiaG, SophiaH, sophia_direction
from thalweg.optim.sso import TargetSurrogate
from thalweg.optim.subspace import subspace
from thalweg.optim.subspace_optimizer import Subspace, subspace_groups
from thalweg.optim.trion import Trion, trion_direction
from thalweg.optim.trust_ratio import lars_ratio, trust_ratio, trust_ratios
from thalweg.optim.weight_decay import add_decayed_weights, implicit_decay

__all__ = [
    "SAM",
    "SGD",
    "SGDP",
    "AdaBelief",
    "Adagrad",
    "AdagradNorm",
    "AdamP",
    "AdamW",
    "AuON",
    "Chain",
    "Chained",
    "ChainedOptimizer",
    "DCTAdamW",
    "DiffGrad",
    "EngineOptions",
    "Fira",
    "Frugal",
    "GaLore",
    "GradientRegularizedNewton",
    "HybridAuON",
    "Lamb",
    "Lars",
    "Lion",
    "LionK",
    "MicroBatchGradients",
    "MultiTaskSAM",
    "Muon",
    "NaturalGaLore",
    "NorMuon",
    "Program",
    "ProgramOptimizer",
    "SophiaG",
    "SophiaH",
    "Subspace",
    "TargetSurrogate",
    "Transform",
    "Trion",
    "adabelief_amsgrad_direction",
    "adabelief_direction",
    "adagrad_direction",
    "adam_direction",
    "add_decayed_weights",
    "add_gradient_noise",
    "bias_corrected",
    "clip_gradient_norm",
    "cosh_damping",
    "cosh_rms",
    "create",
    "diffgrad_direction",
    "elementwise",
    "gradient_noise",
    "gradient_regularized_newton",
    "hidden_matrices",
    "implicit_decay",
    "interpolated_momentum",
    "kernel_gradient",
    "lars_ratio",
    "layerwise",
    "layerwise_groups",
    "lion_direction",
    "list_optimizers",
    "matrix",
    "matrix_kernel_gradient",
    "mean_gradient",
    "median_of_three",
    "momentum",
    "momentum_projection",
    "muon_groups",
    "natural_gradient",
    "normalize_neurons",
    "optimizer_state_bytes",
    "orthogonalize",
    "param_groups_layer_decay",
    "param_groups_weight_decay",
    "program_direction",
    "project_radial",
    "radial_projection",
    "radial_projections",
    "rolling_median",
    "search_optimizers",
    "sophia_direction",
    "subspace",
    "subspace_groups",
    "suggest_lr",
    "tensor_kernel_gradient",
    "trion_direction",
    "trust_ratio",
    "trust_ratios",
    "winsorized_mean",
]
