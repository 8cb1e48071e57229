"""Eigenvalues of the loss Hessian: exact, by Lanczos, and as a density (arXiv:1706.04454)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.autodiff import Hessian
from thalweg.linalg import lanczos

LossFn = Callable[[Tensor, Tensor], Tensor]


def full_hessian(
    model: nn.Module,
    loss_fn: LossFn,
    data: Any,
    *,
    params: Iterable[str] | None = None,
    chunk: int = 128,
    dtype: torch.dtype = torch.float64,
    max_exact: int = 10_000,
) -> Tensor:
    r"""The Hessian :math:`\nabla_\theta^2 \frac1n \sum_i \ell_i` of the **mean** loss over all data, as a matrix.

    Evaluation mode; the model, its gradients and buffers are left as they were.

    Args:
        model: any module of one input.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch.
        data: a pair of tensors ``(X, y)``, a dataset, a DataLoader or a list of batches.
        params: names of the parameters; ``None`` takes all that require gradients.
        chunk: columns computed at once.
        dtype: type to compute in. In float32 the bulk of the spectrum near zero drowns in rounding.
        max_exact: largest number of parameters P to accept.

    Returns:
        ``(P, P)``, exactly symmetric, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: too many parameters, or a loss that is not finite.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> full_hessian(net, nn.functional.mse_loss, data)
        tensor([[1., 0.],
                [0., 9.]], dtype=torch.float64)
    """
    hessian = Hessian(model, loss_fn, data, params=params, dtype=dtype)
    check_exact(hessian.size, max_exact)
    eye = torch.eye(hessian.size, dtype=dtype, device=hessian.flat.vector.device)
    rows = torch.cat([hessian(directions) for directions in eye.split(chunk)])
    return (rows + rows.T) / 2


def hessian_eigenvalues(
    model: nn.Module,
    loss_fn: LossFn,
    data: Any,
    *,
    method: Literal["exact", "lanczos"] = "exact",
    k: int | None = None,
    largest: bool = True,
    params: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    steps: int = 100,
    tol: float = 1e-4,
    max_exact: int = 10_000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Eigenvalues of the Hessian of the **mean** loss, in descending order.

    The first one is the sharpness: the *largest* eigenvalue, not the largest in modulus. See :func:`full_hessian` for
    the model's mode and the forms of data.

    Args:
        model, loss_fn, data, params: as in :func:`full_hessian`.
        method: ``"exact"`` forms the matrix; ``"lanczos"`` needs only products with it, for networks of any size.
        k: how many; ``None`` means all (exact only).
        largest: the k largest, or else the k smallest (most negative).
        dtype: type to compute in; ``None`` is float64 for ``"exact"`` and the model's own for ``"lanczos"``.
        steps: Lanczos: most products with the Hessian, each about two gradients of the whole data set.
        tol: Lanczos: error bound of a value at which to stop, relative to the largest modulus.
        max_exact: exact: largest number of parameters to accept.
        generator: Lanczos: source of the start vector.

    Returns:
        ``(k,)`` or ``(P,)``, float64 on the CPU.

    Raises:
        ValueError: too many parameters for ``"exact"``, Lanczos without ``k``, ``k`` out of range, or a loss that is
            not finite.

    Warns:
        RuntimeWarning: Lanczos did not reach ``tol`` in ``steps`` steps; the message says how far it got.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> hessian_eigenvalues(net, nn.functional.mse_loss, data)
        tensor([9., 1.], dtype=torch.float64)
    """
    if method == "exact":
        H = full_hessian(model, loss_fn, data, params=params, dtype=dtype or torch.float64, max_exact=max_exact)
        _check_k(k, len(H))
        values = torch.linalg.eigvalsh(H).to("cpu", torch.float64).flip(0)
        return values if k is None else values[:k] if largest else values[-k:]
    if method != "lanczos":
        raise ValueError(f"method must be 'exact' or 'lanczos', not {method!r}")
    if k is None:
        raise ValueError("method='lanczos' needs k, the number of eigenvalues wanted")
    hessian = Hessian(model, loss_fn, data, params=params, dtype=dtype)
    _check_k(k, hessian.size)
    sign = 1 if largest else -1
    ritz = lanczos(
        lambda vector: sign * hessian(vector),
        _random_start(hessian, generator),
        max(steps, k),
        top=k,
        tol=tol,
        generator=generator,
    )
    error = float(ritz.residuals[:k].max() / ritz.values.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
    if error > tol:
        warnings.warn(
            f"Lanczos reached a relative error bound of {error:.1e} after {len(ritz.values)} steps, not tol={tol}: "
            "raise steps or ask for fewer values",
            RuntimeWarning,
            stacklevel=2,
        )
    return ritz.values[:k] if largest else -ritz.values[:k].flip(0)


def spectral_density(
    model: nn.Module,
    loss_fn: LossFn,
    data: Any,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 1000,
    params: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    From each of ``probes`` random unit vectors, ``steps`` Lanczos steps give nodes :math:`\theta_j` and weights
    :math:`w_j`; the density is the mean over probes of :math:`\sum_j w_j\,\mathcal N(\lambda; \theta_j, \sigma^2)` with
    :math:`\sigma^2 = 10^{-5}` range².

    Args:
        model, loss_fn, data, params: as in :func:`full_hessian`; the loss is the **mean**.
        probes: random vectors; the error falls as one over the square root of ``probes * P``.
        steps: Lanczos steps each.
        points: points of the grid.
        dtype: type to compute in; ``None`` keeps the model's.
        generator: source of the random vectors.

    Returns:
        ``grid`` and ``density``, ``(points,)`` each, float64 on the CPU; the density integrates to 1.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> grid, density = spectral_density(net, nn.functional.mse_loss, data, points=2000)
        >>> round(torch.trapezoid(density, grid).item(), 3)
        1.0
    """
    if probes < 1 or points < 2:
        raise ValueError(f"the density needs at least one probe and two points, not {probes} and {points}")
    hessian = Hessian(model, loss_fn, data, params=params, dtype=dtype)
    found = [lanczos(hessian, _random_start(hessian, generator), steps, generator=generator) for _ in range(probes)]
    nodes = torch.cat([ritz.values for ritz in found])
    weights = torch.cat([ritz.weights for ritz in found]) / probes
    low, high = float(nodes.min()), float(nodes.max())
    largest = max(abs(low), abs(high)) or 1.0
    sigma = math.sqrt(1e-5) * (high - low if high - low > 1e-9 * largest else largest)  # one value only: a peak there
    grid = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64)
    bumps = torch.exp(-0.5 * ((grid[:, None] - nodes) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return grid, bumps @ weights


def count_outliers(eigenvalues: Tensor, max_rank: int, *, floor: float = 0.05) -> int:
    r"""Number of eigenvalues that stand apart from the bulk: the place of the largest relative gap.

    .. math:: \arg\max_{2 \le j \le m} \lambda_j / \lambda_{j+1} \quad\text{with}\quad \lambda_j > f\,\lambda_1

    with m = ``max_rank`` and f = ``floor``. j = 1 is left out, as the top value often stands apart from the other
    outliers; 1 is returned only where no later value is above the floor.

    Args:
        eigenvalues: ``(P,)``, in any order.
        max_rank: last place to look at; twice the number of classes is usual.
        floor: see above.

    Raises:
        ValueError: the largest eigenvalue is not positive, or ``max_rank`` is below 2 or needs more values than there
            are.

    Example:
        >>> count_outliers(torch.tensor([9.0, 8.0, 7.0, 1.0, 0.9, 0.8]), max_rank=4)
        3
    """
    values = eigenvalues.sort(descending=True).values.double()
    if not 2 <= max_rank < len(values):
        raise ValueError(f"max_rank must lie between 2 and {len(values) - 1}, not {max_rank}")
    if not values[0] > 0:
        raise ValueError("the largest eigenvalue must be positive")
    upper, lower = values[1:max_rank], values[2 : max_rank + 1]
    above = upper > floor * values[0]
    if not bool(above.any()):
        return 1
    gaps = upper / lower.clamp(min=torch.finfo(torch.float64).tiny)  # a gap to zero or below beats every other
    return int(gaps.where(above, torch.zeros_like(gaps)).argmax()) + 2


def _random_start(hessian: Hessian, generator: torch.Generator | None) -> Tensor:
    vector = hessian.flat.vector
    device = generator.device if generator is not None else vector.device
    return torch.randn(hessian.size, generator=generator, dtype=vector.dtype, device=device).to(vector.device)


def check_exact(size: int, max_exact: int) -> None:
    """Refuse to form a matrix that is too large, with advice."""
    if size > max_exact:
        raise ValueError(
            f"a matrix of {size} x {size} ({8e-9 * size**2:.1f} GB) is above max_exact={max_exact}: "
            "use hessian_eigenvalues(method='lanczos') or spectral_density, or raise max_exact"
        )


def _check_k(k: int | None, size: int) -> None:
    if k is not None and not 1 <= k <= size:
        raise ValueError(f"k must lie between 1 and the number of parameters {size}, not {k}")
