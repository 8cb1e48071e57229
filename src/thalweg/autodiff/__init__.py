"""Derivative tools that several seams share."""

from thalweg.autodiff.batches import batches
from thalweg.autodiff.closure import Closure
from thalweg.autodiff.curvature_products import curvature_product
from thalweg.autodiff.eval_mode import eval_mode
from thalweg.autodiff.flat import FlatModel
from thalweg.autodiff.gauss_newton_bartlett import gauss_newton_bartlett, sample_targets, sampled_loss
from thalweg.autodiff.hutchinson import hutchinson_diagonal
from thalweg.autodiff.hvp import Hessian
from thalweg.autodiff.per_example import per_example_gradient_norms, per_example_gradients
from thalweg.autodiff.replayed_draws import ReplayedDraws
from thalweg.autodiff.unchanged_buffers import unchanged_buffers

__all__ = [
    "Closure",
    "FlatModel",
    "Hessian",
    "ReplayedDraws",
    "batches",
    "curvature_product",
    "eval_mode",
    "gauss_newton_bartlett",
    "hutchinson_diagonal",
    "per_example_gradient_norms",
    "per_example_gradients",
    "sample_targets",
    "sampled_loss",
    "unchanged_buffers",
]
