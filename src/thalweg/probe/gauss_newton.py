"""The positive part of the loss Hessian, the one that its outliers come from (arXiv:1706.04454)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from thalweg.autodiff import FlatModel, batches, eval_mode
from thalweg.probe.hessian_spectrum import check_exact


def gauss_newton_eigenvalues(
    model: nn.Module,
    data: Any,
    loss: Literal["ce", "mse"] = "ce",
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
    if loss not in ("ce", "mse"):
        raise ValueError(f"loss must be 'ce' or 'mse', not {loss!r}")
    flat = FlatModel(model, params=params, dtype=dtype)

    def factor(inputs: Tensor) -> Tensor:
        """S^(1/2) J of one example, ``(C, P)``."""
        J = jacrev(lambda theta: flat(theta, inputs.unsqueeze(0)).squeeze(0))(flat.vector)
        if loss == "mse":
            return J
        q = flat(flat.vector, inputs.unsqueeze(0)).squeeze(0).softmax(0)
        return q.sqrt()[:, None] * (J - q @ J)

    with eval_mode(model), torch.no_grad():
        inputs = torch.cat([x.to(flat.vector.device) for x, _ in batches(data)])
        shape = flat(flat.vector, inputs[:1]).shape
        if len(shape) != 2:
            raise ValueError(f"the model's outputs must have shape (batch, outputs), not {tuple(shape)}")
        check_exact(min(flat.size, len(inputs) * shape[1]), max_exact)
        A = vmap(factor, chunk_size=chunk)(inputs).flatten(0, 1) / math.sqrt(len(inputs))
    gram = A @ A.T if A.shape[0] <= A.shape[1] else A.T @ A
    return torch.linalg.eigvalsh(gram).to("cpu", torch.float64).flip(0).clamp(min=0)
