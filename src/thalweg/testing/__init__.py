"""Checks that anyone can run on optimizers, ours or their own; see :func:`check_optimizer`."""

from thalweg.testing.check import CHECKS, Outcome, check_optimizer

__all__ = ["CHECKS", "Outcome", "check_optimizer"]
