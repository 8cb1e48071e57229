r"""How much inductive bias a task demands: minus the log of the share of hypotheses that also do well on test data (arXiv:2406.15941).

Among the hypotheses of a prior that fit the training data, let :math:`e(h)` be the mean squared error on test data. To reach an
error of :math:`\varepsilon` takes

.. math:: I(\varepsilon) = -\log P_h[\, e(h) \le \varepsilon \,]

bits (or nats) that neither the prior nor the training data give. The number depends on prior, kernel, scales and
:math:`\varepsilon`: compare under equal choices only. At one prior and one data set it ranks models as their test errors do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from thalweg.probe.error_tail import log_gamma_cdf, log_quadratic_cdf

Unit = Literal["bits", "nats"]
Kernel = Callable[[Tensor, Tensor], Tensor]
RESAMPLES = 200


class HypothesisPosterior(NamedTuple):
    """Values on test inputs of random functions that fit the training data: normal, with one covariance for all outputs.

    Args:
        mean: ``(T, C)``.
        cov: ``(T, T)``.

    Example:
        >>> from thalweg.probe import HypothesisPosterior
        >>> HypothesisPosterior(torch.zeros(3, 1), torch.eye(3)).cov.shape
        torch.Size([3, 3])
    """

    mean: Tensor
    cov: Tensor


class InductiveBias(NamedTuple):
    """What :func:`required_inductive_bias` gives.

    Args:
        value: the estimate.
        low, high: its 95% bootstrap interval over the sampled hypotheses.
        shape, scale: of the gamma distribution fitted to their errors; a scaled chi-squared one of 2 ``shape`` degrees of freedom.

    Example:
        >>> from thalweg.probe import InductiveBias
        >>> InductiveBias(3.2, 3.1, 3.3, 5.0, 0.2).value
        3.2
    """

    value: float
    low: float
    high: float
    shape: float
    scale: float


def rbf_kernel(length_scale: float = 1.0, amplitude: float = 1.0) -> Kernel:
    r"""The kernel :math:`a^2 \exp(-\|x - x'\|^2 / (2 \ell^2 d))`, whose width is counted in units of :math:`\sqrt d`.

    Args:
        length_scale: l, about 1 for inputs of variance 1 (default 1).
        amplitude: a, the standard deviation of a function's value (default 1).

    Returns:
        A function of inputs ``(n, d)`` and ``(m, d)`` that gives ``(n, m)``.

    Raises:
        ValueError: one of both isn't positive.

    Example:
        >>> rbf_kernel()(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0.6065]])
    """
    if not length_scale > 0 or not amplitude > 0:
        raise ValueError(f"length_scale and amplitude must be positive, not {length_scale} and {amplitude}")

    def kernel(X: Tensor, Z: Tensor) -> Tensor:
        squared = X.square().sum(1)[:, None] + Z.square().sum(1) - 2 * X @ Z.mT
        return amplitude**2 * torch.exp(-squared.clamp(min=0) / (2 * length_scale**2 * X.shape[1]))

    return kernel


def kernel_hypothesis_posterior(
    X: Tensor, Y: Tensor, X_test: Tensor, kernel: Kernel | None = None, *, jitter: float = 1e-6
) -> HypothesisPosterior:
    r"""Values on test inputs of functions drawn from a Gaussian process, given that they pass through the training data.

    .. math::
        \mu = K_{ts} (K_{ss} + s^2 I)^{-1} Y, \qquad \Sigma = K_{tt} - K_{ts} (K_{ss} + s^2 I)^{-1} K_{st}

    Args:
        X, Y: training inputs ``(n, d)`` and targets ``(n, C)``.
        X_test: ``(T, d)``. Time and memory grow as :math:`n^3 + T^3` and :math:`T^2`.
        kernel: :func:`rbf_kernel` of length 1 by default; linear models of features have ``lambda A, B: f(A) @ f(B).mT``.
        jitter: s squared, in units of the mean variance at training inputs (default 1e-6).

    Returns:
        :class:`HypothesisPosterior` in float64.

    Raises:
        ValueError: shapes don't fit, or jitter isn't positive.

    Example:
        >>> X = torch.tensor([[0.0], [1.0]])
        >>> kernel_hypothesis_posterior(X, X, X).mean.round(decimals=4)  # through the training data
        tensor([[0.],
                [1.]], dtype=torch.float64)
    """
    if X.dim() != 2 or Y.dim() != 2 or X_test.dim() != 2 or len(X) != len(Y) or X.shape[1] != X_test.shape[1]:
        raise ValueError(
            f"X, Y and X_test must be (n, d), (n, C) and (T, d), not {tuple(X.shape)}, {tuple(Y.shape)}, {tuple(X_test.shape)}"
        )
    if not jitter > 0:
        raise ValueError(f"jitter must be positive, not {jitter}")
    kernel = rbf_kernel() if kernel is None else kernel
    X, Y, X_test = X.double(), Y.double(), X_test.double()
    K, across, own = kernel(X, X), kernel(X_test, X), kernel(X_test, X_test)
    chol = torch.linalg.cholesky(K + jitter * K.diagonal().mean() * torch.eye(len(X), dtype=K.dtype, device=K.device))
    half = torch.linalg.solve_triangular(chol, across.mT, upper=False)
    mean = half.mT @ torch.linalg.solve_triangular(chol, Y, upper=False)
    cov = own - half.mT @ half
    return HypothesisPosterior(mean, 0.5 * (cov + cov.mT))


def sample_test_errors(
    posterior: HypothesisPosterior, Y_test: Tensor, num_samples: int = 1000, *, generator: torch.Generator | None = None
) -> Tensor:
    """Mean squared errors on test data of functions drawn from the posterior.

    Args:
        posterior: of :func:`kernel_hypothesis_posterior`.
        Y_test: ``(T, C)``.
        num_samples: functions to draw (default 1000).
        generator: for the draws.

    Returns:
        ``(num_samples,)``, float64.

    Raises:
        ValueError: shapes don't fit, or a sample size below 1.

    Example:
        >>> from thalweg.probe import HypothesisPosterior
        >>> sample_test_errors(HypothesisPosterior(torch.zeros(50, 1), torch.eye(50)), torch.zeros(50, 1), 5).shape
        torch.Size([5])
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    weights, shifted = _principal_errors(posterior, Y_test)
    deviations, errors = weights.sqrt()[:, None], []
    per_chunk = max(1, 2**22 // shifted.numel())
    for start in range(0, num_samples, per_chunk):
        count = min(per_chunk, num_samples - start)
        z = torch.randn(count, *shifted.shape, generator=generator, dtype=shifted.dtype, device=shifted.device)
        errors.append(z.mul_(deviations).add_(shifted).square_().mean((1, 2)))
    return torch.cat(errors)


def network_test_errors(
    train: Callable[[int], nn.Module],
    data: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    num: int = 100,
    *,
    tol: float = 1e-2,
) -> Tensor:
    """Mean squared errors on test data of networks trained from random starts, of those that fit the training data.

    Args:
        train: gives the network trained from the start of this number, 0 to ``num`` - 1.
        data, test: inputs and targets ``(n, C)``; the targets of classes are one-hot.
        num: networks to train (default 100).
        tol: largest training error of a network that counts, relative to the variance of the training targets.

    Returns:
        One error for each network that fits, float64.

    Raises:
        RuntimeError: none fits.

    Example:
        >>> X = torch.tensor([[1.0], [2.0]])
        >>> fits = nn.Linear(1, 1)
        >>> _ = nn.init.ones_(fits.weight), nn.init.zeros_(fits.bias)
        >>> network_test_errors(lambda start: fits, (X, X), (X + 1, X), num=2)
        tensor([1., 1.], dtype=torch.float64)
    """
    largest, errors = tol * data[1].double().var(0, correction=0).mean(), []
    for start in range(num):
        model = train(start)
        with torch.no_grad():
            fit, error = ((model(X).double() - Y).square().mean() for X, Y in (data, test))
        if fit <= largest:
            errors.append(error)
    if not errors:
        raise RuntimeError(
            f"none of {num} networks fits the training data to {tol:g} of its variance: train for longer"
        )
    return torch.stack(errors)


def required_inductive_bias(
    errors: Tensor,
    eps: float,
    *,
    fit: Literal["moments", "mle"] = "moments",
    unit: Unit = "bits",
    generator: torch.Generator | None = None,
) -> InductiveBias:
    r"""The bias that an error of ``eps`` demands, from the test errors of sampled hypotheses.

    The share of hypotheses below ``eps`` is far too small to count, so the errors are fitted with a scaled chi-squared, that is a
    gamma, distribution of their mean m and variance v (shape :math:`m^2 / v`, scale :math:`v / m`), or the likeliest
    one, and its tail is taken. That is an extrapolation: for kernels compare :func:`kernel_inductive_bias`, which needs none.

    Args:
        errors: of independent hypotheses that fit the training data, ``(S,)``, ten or more.
        eps: the error to reach, positive.
        fit: ``"moments"`` or ``"mle"``.
        unit: ``"bits"`` (default) or ``"nats"``.
        generator: for the bootstrap; a fixed one by default.

    Returns:
        :class:`InductiveBias`. Where all errors are equal: 0 or infinity, with a warning.

    Raises:
        ValueError: fewer than ten errors, one that is negative or not finite, ``eps`` not positive, unknown ``fit`` or ``unit``.

    Example:
        >>> errors = torch.randn(20_000, 10, generator=torch.Generator().manual_seed(0)).square().mean(1)
        >>> abs(required_inductive_bias(errors, 0.5).value - 3.19996) < 0.1  # by the formula
        True
    """
    if errors.dim() != 1 or len(errors) < 10 or not bool((errors.isfinite() & (errors >= 0)).all()):
        raise ValueError(f"errors must be ten or more finite numbers of at least 0, not of shape {tuple(errors.shape)}")
    if fit not in ("moments", "mle"):
        raise ValueError(f"fit must be 'moments' or 'mle', not {fit!r}")
    _check(eps, unit)
    errors = errors.double()
    if not errors.var() > 1e-24 * errors.square().mean():
        warnings.warn("all hypotheses have the same error, so there is no tail to speak of", stacklevel=2)
        value = 0.0 if eps >= errors.mean() else math.inf
        return InductiveBias(value, value, value, math.inf, 0.0)
    draws = torch.Generator().manual_seed(0) if generator is None else generator
    sums, left = [_sums(errors[None])], RESAMPLES
    while left:
        count = min(left, max(1, 2**20 // len(errors)))
        sums.append(_sums(errors[torch.randint(len(errors), (count, len(errors)), generator=draws)]))
        left -= count
    shapes, scales = (column.tolist() for column in _fit_gamma(torch.cat(sums), fit))
    values = [_in(unit, -log_gamma_cdf(k, eps / c)) for k, c in zip(shapes, scales, strict=True)]
    low, high = torch.tensor(values[1:]).quantile(torch.tensor([0.025, 0.975])).tolist()
    return InductiveBias(values[0], low, high, shapes[0], scales[0])


@overload
def kernel_inductive_bias(
    posterior: HypothesisPosterior, Y_test: Tensor, eps: float, *, unit: Unit = "bits"
) -> float: ...


@overload
def kernel_inductive_bias(
    posterior: HypothesisPosterior, Y_test: Tensor, eps: Sequence[float], *, unit: Unit = "bits"
) -> list[float]: ...


def kernel_inductive_bias(
    posterior: HypothesisPosterior, Y_test: Tensor, eps: float | Sequence[float], *, unit: Unit = "bits"
) -> float | list[float]:
    r"""The bias that an error of ``eps`` demands of a kernel's functions, without sampling or a fitted tail.

    In the eigenbasis of :math:`\Sigma` the error is a weighted sum of squares of shifted normal numbers, whose tail
    :func:`log_quadratic_cdf` gives.

    Args:
        posterior: of :func:`kernel_hypothesis_posterior`.
        Y_test: ``(T, C)``.
        eps: the error to reach, positive, or several.
        unit: ``"bits"`` (default) or ``"nats"``.

    Returns:
        A number for each ``eps``; infinity where no function of the posterior reaches it.

    Raises:
        ValueError: shapes don't fit, ``eps`` isn't positive, or unknown ``unit``.

    Example:
        >>> from thalweg.probe import HypothesisPosterior
        >>> posterior = HypothesisPosterior(torch.zeros(10, 1), torch.eye(10))
        >>> round(kernel_inductive_bias(posterior, torch.zeros(10, 1), 0.5), 2)  # 3.19996 by the formula
        3.2
    """
    several = [eps] if isinstance(eps, (int, float)) else list(eps)
    for error in several:
        _check(error, unit)
    weights, shifted = _principal_errors(posterior, Y_test)
    free = weights > 1e-12 * weights.max().clamp(min=1e-300)
    lam = weights[free, None].expand(-1, shifted.shape[1])
    shifts, fixed = shifted[free] / lam.sqrt(), shifted[~free].square().sum().item()

    def bias(error: float) -> float:
        left = error * shifted.numel() - fixed
        if not len(lam):
            return 0.0 if left >= 0 else math.inf
        return _in(unit, -log_quadratic_cdf(lam, shifts, left))

    found = [bias(error) for error in several]
    return found[0] if isinstance(eps, (int, float)) else found


def _principal_errors(posterior: HypothesisPosterior, Y_test: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the covariance, ``(T,)``, and the mean's errors in its eigenbasis, ``(T, C)``."""
    mean, cov = posterior
    if mean.shape != Y_test.shape or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"mean, cov and Y_test must be (T, C), (T, T) and (T, C), not {tuple(mean.shape)}, {tuple(cov.shape)}, "
            f"{tuple(Y_test.shape)}"
        )
    values, vectors = torch.linalg.eigh(cov.double())
    return values.clamp(min=0), vectors.mT @ (mean.double() - Y_test.double())


def _sums(errors: Tensor) -> Tensor:
    """Of each row: mean, variance, and logarithm of the mean less the mean logarithm; ``(rows, 3)``."""
    mean = errors.mean(1)
    return torch.stack([mean, errors.var(1), mean.log() - errors.clamp(min=1e-300).log().mean(1)], 1)


def _fit_gamma(sums: Tensor, fit: str) -> tuple[Tensor, Tensor]:
    """Shapes and scales of the gamma distributions of rows of sums."""
    mean, variance, gap = sums.unbind(1)
    shape = mean.square() / variance
    if fit == "mle":
        for _ in range(50):  # Newton's method in 1 / k, for log k - digamma(k) = gap
            wrong = shape.log() - torch.digamma(shape) - gap
            shape = 1 / (1 / shape + wrong / (shape.square() * (1 / shape - torch.polygamma(1, shape)))).clamp(
                min=1e-12
            )
    return shape, mean / shape


def _check(eps: float, unit: str) -> None:
    if not eps > 0:
        raise ValueError(f"eps must be positive, not {eps}")
    if unit not in ("bits", "nats"):
        raise ValueError(f"unit must be 'bits' or 'nats', not {unit!r}")


def _in(unit: str, nats: float) -> float:
    return nats / math.log(2) if unit == "bits" else nats
