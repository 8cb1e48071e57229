"""Derivative tools that several seams share."""

from thalweg.autodiff.batches import batches
from thalweg.autodiff.eval_mode import eval_mode
from thalweg.autodiff.flat import FlatModel
from thalweg.autodiff.hvp import Hessian
from thalweg.autodiff.per_example import per_example_gradient_norms, per_example_gradients

__all__ = ["FlatModel", "Hessian", "batches", "eval_mode", "per_example_gradient_norms", "per_example_gradients"]
