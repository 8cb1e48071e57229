"""Solvers that replace the training loop."""

from thalweg.solve.attention_descent import AttentionPath, attention_gradient, normalized_attention_descent
from thalweg.solve.attention_svm import AttentionSVM, attention_svm, locally_optimal
from thalweg.solve.factor_model import FactorModelMLE
from thalweg.solve.feature_energy import Ascent, ascend_feature_energy, cyclic_energy, feature_energy, feature_signal
from thalweg.solve.frozen_head_gd import FrozenHeadPath, first_step_direction, frozen_head_gd
from thalweg.solve.iterative_newton import (
    gd_lstsq,
    iterative_newton_lstsq,
    newton_schulz_inverse,
    online_predictions,
    similarity_of_errors,
)
from thalweg.solve.kernel_descent import early_stopping_time, kernel_gd_path, relu_ntk
from thalweg.solve.langevin import langevin_samples
from thalweg.solve.matrix_sensing import (
    Factors,
    MatrixSensing,
    asymmetric_rate,
    factored_gd,
    rebalance_,
    symmetric_tail,
)
from thalweg.solve.normalized_logistic_gd import logistic_gd, logistic_scale, normalized_logistic_loss
from thalweg.solve.perceptron import batch_perceptron, perceptron
from thalweg.solve.pretrained import ClusterVote, LeastSquares, PretrainThenERM
from thalweg.solve.robust_recovery import Recovery, l1_subgradient, sign_rip_scale, sign_spectral_init, subgm
from thalweg.solve.separation import History, LinearResult, iteration_bound, margin
from thalweg.solve.spectral_filter import condition_number, gd_path_solution, ridge_path_solution
from thalweg.solve.spherical_mixture import SphericalMixtureMLE

__all__ = [
    "Ascent",
    "AttentionPath",
    "AttentionSVM",
    "ClusterVote",
    "FactorModelMLE",
    "Factors",
    "FrozenHeadPath",
    "History",
    "LeastSquares",
    "LinearResult",
    "MatrixSensing",
    "PretrainThenERM",
    "Recovery",
    "SphericalMixtureMLE",
    "ascend_feature_energy",
    "asymmetric_rate",
    "attention_gradient",
    "attention_svm",
    "batch_perceptron",
    "condition_number",
    "cyclic_energy",
    "early_stopping_time",
    "factored_gd",
    "feature_energy",
    "feature_signal",
    "first_step_direction",
    "frozen_head_gd",
    "gd_lstsq",
    "gd_path_solution",
    "iteration_bound",
    "iterative_newton_lstsq",
    "kernel_gd_path",
    "l1_subgradient",
    "langevin_samples",
    "locally_optimal",
    "logistic_gd",
    "logistic_scale",
    "margin",
    "newton_schulz_inverse",
    "normalized_attention_descent",
    "normalized_logistic_loss",
    "online_predictions",
    "perceptron",
    "rebalance_",
    "relu_ntk",
    "ridge_path_solution",
    "sign_rip_scale",
    "sign_spectral_init",
    "similarity_of_errors",
    "subgm",
    "symmetric_tail",
]
