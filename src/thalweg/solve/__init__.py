"""Solvers that replace the training loop."""

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
from thalweg.solve.robust_recovery import Recovery, l1_subgradient, sign_rip_scale, sign_spectral_init, subgm
from thalweg.solve.separation import History, LinearResult, iteration_bound, margin

__all__ = [
    "Factors",
    "History",
    "LinearResult",
    "MatrixSensing",
    "Recovery",
    "asymmetric_rate",
    "batch_perceptron",
    "factored_gd",
    "iteration_bound",
    "l1_subgradient",
    "logistic_gd",
    "logistic_scale",
    "margin",
    "normalized_logistic_loss",
    "perceptron",
    "rebalance_",
    "sign_rip_scale",
    "sign_spectral_init",
    "subgm",
    "symmetric_tail",
]
