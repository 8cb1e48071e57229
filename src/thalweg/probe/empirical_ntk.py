"""The tangent kernel of a network as it is: which examples pull one another along."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.func import jacrev, vmap

from thalweg.autodiff import FlatModel, eval_mode


def empirical_ntk(
    model: nn.Module,
    inputs: Tensor,
    others: Tensor | None = None,
    *,
    params: Iterable[str] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Gram matrix of the outputs' gradients, :math:`K = J J'^\top` with :math:`J = \partial f(x) / \partial \theta`.

    A small gradient step on the outputs of one example moves those of another by their entry of K. It isn't normalized.
    Row ``i * C + c`` belongs to output c of example i. The Jacobian is held whole: B * C * P numbers.

    Args:
        model: evaluated in evaluation mode, left as it was; it gets no gradient.
        inputs: ``(B, ...)``.
        others: ``(B', ...)``, the examples of the columns; ``None`` takes ``inputs``.
        params: names of the parameters that count; ``None`` takes all that require gradients.
        chunk_size: examples differentiated at once; ``None`` is all.

    Returns:
        ``(B * C, B' * C)``, C the outputs of one example; without ``others`` exactly symmetric, which a product need not be: in its
        last digits that depends on the machine.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
        >>> empirical_ntk(net, x)  # x x^T, and 1 for the bias
        tensor([[ 6.,  2.],
                [ 2., 11.]])
    """
    flat = FlatModel(model, params=params)

    def outputs(vector: Tensor, x: Tensor) -> Tensor:
        return flat(vector, x.unsqueeze(0)).flatten()

    with eval_mode(model):
        jacobian = vmap(jacrev(outputs), in_dims=(None, 0), chunk_size=chunk_size)
        rows = jacobian(flat.vector, inputs).flatten(0, 1)
        if others is not None:
            return rows @ jacobian(flat.vector, others).flatten(0, 1).mT
    gram = rows @ rows.mT
    return gram.tril() + gram.tril(-1).mT
