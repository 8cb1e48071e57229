"""Measures of a model. They change nothing: not its parameters, gradients or buffers, nor its training mode."""

from thalweg.probe.attention_step import AttentionStep, read_off_preconditioner
from thalweg.probe.fine_tuned import fine_tuned
from thalweg.probe.gauss_newton import gauss_newton_eigenvalues
from thalweg.probe.hessian_spectrum import (
    count_outliers,
    full_hessian,
    hessian_eigenvalues,
    spectral_density,
)
from thalweg.probe.jacobian_spectrum import jacobian_singular_values
from thalweg.probe.linear_path import barrier, linear_path
from thalweg.probe.lion_k import constraint_violation, kkt_residual, lyapunov
from thalweg.probe.m_coherence import Coherence, GradientCoherence, gradient_coherence
from thalweg.probe.mode_strengths import mode_strengths
from thalweg.probe.opposing_groups import Opposition, alternation, find_opposing_groups, opposition
from thalweg.probe.prediction_overlap import (
    OrderSensitivity,
    label_agreement,
    order_sensitivity,
    overlap_cosine,
    token_overlap,
    weight_sparsity,
)
from thalweg.probe.sgd_stability import Stability, expected_loss_course, max_stable_lr, sgd_bound, sgd_stability

__all__ = [
    "AttentionStep",
    "Coherence",
    "GradientCoherence",
    "Opposition",
    "OrderSensitivity",
    "Stability",
    "alternation",
    "barrier",
    "constraint_violation",
    "count_outliers",
    "expected_loss_course",
    "find_opposing_groups",
    "fine_tuned",
    "full_hessian",
    "gauss_newton_eigenvalues",
    "gradient_coherence",
    "hessian_eigenvalues",
    "jacobian_singular_values",
    "kkt_residual",
    "label_agreement",
    "linear_path",
    "lyapunov",
    "max_stable_lr",
    "mode_strengths",
    "opposition",
    "order_sensitivity",
    "overlap_cosine",
    "read_off_preconditioner",
    "sgd_bound",
    "sgd_stability",
    "spectral_density",
    "token_overlap",
    "weight_sparsity",
]
