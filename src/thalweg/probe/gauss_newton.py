"""The positive part of the loss Hessian, the one that its outliers come from (arXiv:1706.04454)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import jacrev, vjp, vmap

from thalweg.autodiff import FlatModel, batches, eval_mode
from thalweg.probe.hessian_spectrum import check_exact

Loss = Literal["ce", "mse"]


def gauss_newton_eigenvalues(
    model: nn.Module,
    data: Any,
    loss: Loss = "ce",
    *,
    params: Iterable[str] | None = None,
    chunk: int = 64,
    dtype: torch.dtype = torch.float64,
    max_exact: int = 10_000,
) -> Tensor:
    r"""Eigenvalues of the Gauss-Newton part :math:`G` of the Hessian, in descending order, without forming :math:`G`.

    .. math:: H = G + R, \qquad G = \frac1n \sum_i J_i^\top S_i J_i, \qquad J_i = \partial f(x_i) / \partial\theta

    with :math:`S_i = \mathrm{diag}(q_i) - q_i q_i^\top`, :math:`q_i` the predicted probabilities (``"ce"``), or
    :math:`S_i = I` (``"mse"``). The non-zero ones are those of :math:`\frac1n A A^\top`, where A stacks
    :math:`S_i^{1/2} J_i`; for cross-entropy :math:`\mathrm{diag}(\sqrt{q_i})(I - 1 q_i^\top)` stands for
    :math:`S_i^{1/2}`, with the same Gram matrix.

    **Loss convention:** the mean over examples; ``"ce"`` is ``cross_entropy``, ``"mse"`` is **half** the squared
    distance, summed over outputs. Torch's ``mse_loss``, which averages over C outputs too, has these values times
    2 / C.

    Args:
        model: outputs ``(B, C)``; evaluation mode, left as it was.
        data: as in :func:`full_hessian`. The targets are not used.
        loss: see above.
        params: names of the parameters; ``None`` takes all that require gradients.
        chunk: examples differentiated at once.
        dtype: type to compute in.
        max_exact: largest min(P, n C) to accept.

    Returns:
        ``(min(P, n C),)``, float64 on the CPU; the P - n C other eigenvalues are zero.

    Raises:
        ValueError: an unknown loss, outputs that are not ``(B, C)``, or too large a problem.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> gauss_newton_eigenvalues(net, data, "mse")
        tensor([4.5000, 0.5000], dtype=torch.float64)
    """
    _check_loss(loss)
    flat = FlatModel(model, params=params, dtype=dtype)
    with eval_mode(model), torch.no_grad():
        inputs = torch.cat([x.to(flat.vector.device) for x, _ in batches(data)])
        outputs = _outputs(flat, inputs[:1])
        check_exact(min(flat.size, len(inputs) * outputs.shape[1]), max_exact)
        A = vmap(lambda x: _factor(flat, x, loss), chunk_size=chunk)(inputs).flatten(0, 1) / math.sqrt(len(inputs))
    gram = A @ A.T if A.shape[0] <= A.shape[1] else A.T @ A
    return torch.linalg.eigvalsh(gram).to("cpu", torch.float64).flip(0).clamp(min=0)


def gauss_newton_trace(
    model: nn.Module,
    data: Any,
    loss: Loss = "ce",
    *,
    method: Literal["exact", "hutchinson"] = "exact",
    params: Iterable[str] | None = None,
    chunk: int = 64,
    probes: int = 30,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> float:
    r"""Trace of the Gauss-Newton matrix G, the flatness that SGD on single examples can feel (arXiv:2305.17490).

    .. math:: \operatorname{tr} G = \frac1n \sum_i \| S_i^{1/2} J_i \|_F^2

    with :math:`S_i` and the **loss convention** of :func:`gauss_newton_eigenvalues`, whose sum it is. For one output and
    ``"mse"`` it is the mean squared norm of the output's gradients, and where these outputs fit their targets also the trace of the
    Hessian: the number that is at most 2 / lr at a minimum where SGD with batches of one stays (:func:`sgd_stability`).

    ``"exact"`` takes C gradients of each example, and holds C * P numbers for each of ``chunk`` examples. ``"hutchinson"`` takes
    ``probes`` gradients of each chunk together, whatever C is, and holds P numbers: with random signs z over its examples and
    outputs, :math:`E \| \sum_i J_i^\top S_i^{1/2 \top} z_i \|^2` is the chunk's sum. Its relative standard deviation is at most
    :math:`\sqrt{2 / \text{probes}}`, and smaller the more chunks there are.

    Args:
        model, data, loss, params: as in :func:`gauss_newton_eigenvalues`.
        method: see above.
        chunk: examples differentiated at once.
        probes: Hutchinson: draws of signs for each chunk.
        dtype: type to compute in; ``None`` is float64 for ``"exact"`` and the model's own for ``"hutchinson"``. Sums are in float64.
        generator: Hutchinson: source of the signs.

    Raises:
        ValueError: an unknown loss or method, no data, fewer than one probe, or outputs that are not ``(B, C)``.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> data = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> gauss_newton_trace(net, data, "mse")
        5.0
    """
    _check_loss(loss)
    if method not in ("exact", "hutchinson"):
        raise ValueError(f"method must be 'exact' or 'hutchinson', not {method!r}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, not {probes}")
    flat = FlatModel(model, params=params, dtype=dtype or (torch.float64 if method == "exact" else None))
    total, examples = 0.0, 0
    with eval_mode(model), torch.no_grad():
        for batch, _ in batches(data):
            for inputs in batch.to(flat.vector.device).split(chunk):
                outputs = _outputs(flat, inputs)
                if method == "exact":
                    found = vmap(lambda x: _factor(flat, x, loss))(inputs).square().sum(dtype=torch.float64)
                else:
                    found = _probed(flat, inputs, outputs, loss, probes, generator)
                total, examples = total + found.item(), examples + len(inputs)
    if not examples:
        raise ValueError("data holds no example")
    return total / examples


def _check_loss(loss: str) -> None:
    if loss not in ("ce", "mse"):
        raise ValueError(f"loss must be 'ce' or 'mse', not {loss!r}")


def _outputs(flat: FlatModel, inputs: Tensor) -> Tensor:
    outputs = flat(flat.vector, inputs)
    if outputs.ndim != 2:
        raise ValueError(f"the model's outputs must have shape (batch, outputs), not {tuple(outputs.shape)}")
    return outputs


def _factor(flat: FlatModel, inputs: Tensor, loss: Loss) -> Tensor:
    """S^(1/2) J of one example, ``(C, P)``."""
    J = jacrev(lambda theta: flat(theta, inputs.unsqueeze(0)).squeeze(0))(flat.vector)
    if loss == "mse":
        return J
    q = flat(flat.vector, inputs.unsqueeze(0)).squeeze(0).softmax(0)
    return q.sqrt()[:, None] * (J - q @ J)


def _probed(
    flat: FlatModel, inputs: Tensor, outputs: Tensor, loss: Loss, probes: int, generator: torch.Generator | None
) -> Tensor:
    """Mean over random signs of the squared length of what they give, pulled back through the chunk's outputs."""
    pull_back: Any = vjp(lambda theta: flat(theta, inputs), flat.vector)[1]
    q = outputs.softmax(1)
    device = generator.device if generator is not None else outputs.device
    total = torch.zeros((), dtype=torch.float64, device=outputs.device)
    for _ in range(probes):
        signs = torch.randint(2, outputs.shape, generator=generator, device=device).to(outputs) * 2 - 1
        if loss == "ce":
            weighed = q.sqrt() * signs
            signs = weighed - q * weighed.sum(1, keepdim=True)
        total += pull_back(signs)[0].square().sum(dtype=torch.float64)
    return total / probes
