"""Measures of a model. They change nothing: not its parameters, gradients or buffers, nor its training mode."""

from thalweg.probe.attention_step import AttentionStep, read_off_preconditioner
from thalweg.probe.effective_rank import effective_rank
from thalweg.probe.empirical_ntk import empirical_ntk
from thalweg.probe.error_tail import log_gamma_cdf, log_quadratic_cdf
from thalweg.probe.fine_tuned import fine_tuned
from thalweg.probe.fourier_purity import FourierPurity, fourier_purity
from thalweg.probe.gauss_newton import gauss_newton_eigenvalues, gauss_newton_trace
from thalweg.probe.grokking_times import GrokkingTimes, grokking_times
from thalweg.probe.hessian_spectrum import (
    count_outliers,
    full_hessian,
    hessian_eigenvalues,
    spectral_density,
)
from thalweg.probe.hypothesis_weight import BayesianMixture, RegretBound, hypothesis_weight, regret_bound
from thalweg.probe.inductive_bias import (
    HypothesisPosterior,
    InductiveBias,
    kernel_hypothesis_posterior,
    kernel_inductive_bias,
    network_test_errors,
    rbf_kernel,
    required_inductive_bias,
    sample_test_errors,
)
from thalweg.probe.jacobian_spectrum import jacobian_singular_values
from thalweg.probe.kernel_alignment import kernel_alignment, representation_alignment, sign_similarity
from thalweg.probe.laziness import Laziness, LazinessTracker
from thalweg.probe.linear_path import barrier, linear_path
from thalweg.probe.lion_k import constraint_violation, kkt_residual, lyapunov
from thalweg.probe.m_coherence import Coherence, GradientCoherence, gradient_coherence
from thalweg.probe.mode_strengths import mode_strengths
from thalweg.probe.opposing_groups import Opposition, alternation, find_opposing_groups, opposition
from thalweg.probe.peak_memory import peak_memory
from thalweg.probe.prediction_overlap import (
    OrderSensitivity,
    label_agreement,
    order_sensitivity,
    overlap_cosine,
    token_overlap,
    weight_sparsity,
)
from thalweg.probe.sample_complexity import sample_complexity
from thalweg.probe.sgd_stability import Stability, expected_loss_course, max_stable_lr, sgd_bound, sgd_stability

__all__ = [
    "AttentionStep",
    "BayesianMixture",
    "Coherence",
    "FourierPurity",
    "GradientCoherence",
    "GrokkingTimes",
    "HypothesisPosterior",
    "InductiveBias",
    "Laziness",
    "LazinessTracker",
    "Opposition",
    "OrderSensitivity",
    "RegretBound",
    "Stability",
    "alternation",
    "barrier",
    "constraint_violation",
    "count_outliers",
    "effective_rank",
    "empirical_ntk",
    "expected_loss_course",
    "find_opposing_groups",
    "fine_tuned",
    "fourier_purity",
    "full_hessian",
    "gauss_newton_eigenvalues",
    "gauss_newton_trace",
    "gradient_coherence",
    "grokking_times",
    "hessian_eigenvalues",
    "hypothesis_weight",
    "jacobian_singular_values",
    "kernel_alignment",
    "kernel_hypothesis_posterior",
    "kernel_inductive_bias",
    "kkt_residual",
    "label_agreement",
    "linear_path",
    "log_gamma_cdf",
    "log_quadratic_cdf",
    "lyapunov",
    "max_stable_lr",
    "mode_strengths",
    "network_test_errors",
    "opposition",
    "order_sensitivity",
    "overlap_cosine",
    "peak_memory",
    "rbf_kernel",
    "read_off_preconditioner",
    "regret_bound",
    "representation_alignment",
    "required_inductive_bias",
    "sample_complexity",
    "sample_test_errors",
    "sgd_bound",
    "sgd_stability",
    "sign_similarity",
    "spectral_density",
    "token_overlap",
    "weight_sparsity",
]
