"""Matrix tools that several seams share.

Closed forms of how simple models learn, which the claims compare their experiments with, are imported from a module for each theory:
:mod:`thalweg.linalg.linear_network`, :mod:`thalweg.linalg.mode_flow` and :mod:`thalweg.linalg.linear_descent` (deep linear networks),
:mod:`thalweg.linalg.regression_dynamics` and :mod:`thalweg.linalg.marchenko_pastur` (a noisy linear teacher),
:mod:`thalweg.linalg.factor_risk` (factor models), :mod:`thalweg.linalg.in_context_step` and
:mod:`thalweg.linalg.in_context_descent` (regression prompts), :mod:`thalweg.linalg.mean_field_quadratic` (quadratic units),
:mod:`thalweg.linalg.small_start_kernel` (kernels of small starts). So are the bases and orthogonal factors that update rules use:
:mod:`thalweg.linalg.polar`, :mod:`thalweg.linalg.dct`, :mod:`thalweg.linalg.subspace_basis`, :mod:`thalweg.linalg.woodbury`.
"""

from thalweg.linalg.conjugate_gradients import Solved, conjugate_gradients
from thalweg.linalg.convex_kernels import KERNELS, ConvexKernel, convex_kernel, register_kernel
from thalweg.linalg.haar import haar
from thalweg.linalg.infeasible import InfeasibleError
from thalweg.linalg.lanczos import Ritz, lanczos
from thalweg.linalg.min_norm_point import MinNormPoint, min_norm_point

__all__ = [
    "KERNELS",
    "ConvexKernel",
    "InfeasibleError",
    "MinNormPoint",
    "Ritz",
    "Solved",
    "conjugate_gradients",
    "convex_kernel",
    "haar",
    "lanczos",
    "min_norm_point",
    "register_kernel",
]
