"""NorMuon: Muon with a second moment for every neuron (arXiv:2510.05491)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.linalg.polar import Coefficients
from thalweg.optim.engine import matrix
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.matrix_optimizer import MatrixOptimizer
from thalweg.optim.momentum import momentum as momentum_of
from thalweg.optim.muon import MUON_SEARCH, orthogonalize, shape_scale
from thalweg.registry import method

UpdateScale = Literal["preserve_norm", "match_rms"]


def _neurons(m: int, n: int, neuron_dim: int, update_scale: str, **_: Any) -> tuple[int]:
    if neuron_dim not in (0, 1):
        raise ValueError(f"Invalid neuron_dim: {neuron_dim!r} (0: a neuron is a row; 1: a column)")
    if update_scale not in ("preserve_norm", "match_rms"):
        raise ValueError(f"unknown update_scale {update_scale!r} (choose from preserve_norm, match_rms)")
    return (m if neuron_dim == 0 else n,)


@matrix(state={"second_momentum": _neurons})
def normalize_neurons(
    stack: Tensor,
    state: dict[str, Tensor],
    *,
    beta2: float = 0.95,
    norm_eps: float = 1e-10,
    update_scale: str = "preserve_norm",
    neuron_dim: int = 0,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Divide every row (neuron) by the running root mean square of its updates, then give the matrix its size back.

    See :class:`NorMuon` for the equations. What is kept is one number a neuron, ``second_momentum``.

    Example:
        >>> from thalweg.optim import Chained, normalize_neurons
        >>> p = nn.Parameter(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
        >>> p.grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> Chained([p], normalize_neurons(beta2=0.0), lr=1.0).step()
        >>> p.data
        tensor([[-2.1319, -2.8425],
                [-2.1319, -2.8425]])
    """
    along = -1 if neuron_dim == 0 else -2
    inputs, outputs = stack.shape[along], stack.shape[-3 - along]
    old = state["second_momentum"]
    norms = torch.linalg.vector_norm(stack, dim=along, dtype=torch.promote_types(stack.dtype, old.dtype))
    second = state["second_momentum"] = beta2 * old + (1 - beta2) * norms.square() / inputs
    inverse = 1 / (second.sqrt() + norm_eps)
    size = torch.linalg.vector_norm(norms * inverse, dim=-1, keepdim=True).clamp(min=norm_eps)
    if update_scale == "preserve_norm":
        wanted = torch.linalg.vector_norm(norms, dim=-1, keepdim=True) * shape_scale(outputs, inputs, "original")
    else:
        wanted = 0.2 * math.sqrt(inputs * outputs)
    scale = inverse * (wanted / size)
    return (stack, scale[..., None]) if neuron_dim == 0 else stack * scale[..., None, :]


@method(
    "normuon",
    search=MUON_SEARCH,
    use="Where Muon suits, for one more number a row: its rows then move by similar amounts.",
)
class NorMuon(MatrixOptimizer):
    r"""Muon whose neurons move by similar amounts (arXiv:2510.05491).

    Orthogonalized updates have equal singular values, but tall matrices' rows can differ widely in norm. So the running mean square of
    every row evens them out, and the matrix as a whole keeps its size:

    .. math::
        O = \mathrm{NS}(U), \quad
        v_i \leftarrow \beta_2 v_i + (1-\beta_2) \tfrac1n \|O_i\|^2, \quad
        \hat O_i = \frac{O_i}{\sqrt{v_i} + \epsilon}, \quad
        W \leftarrow (1-\eta\lambda) W - \eta\, c\, \hat O

    with Muon's momentum U of an m x n matrix, and c from ``update_scale``:

    - "preserve_norm": :math:`\sqrt{\max(1, m/n)}\, \|O\|_F / \max(\|\hat O\|_F, \epsilon)`, the size of Muon's step;
    - "match_rms": :math:`0.2 \sqrt{mn} / \max(\|\hat O\|_F, \epsilon)`, a root mean square of 0.2 whatever the shape.

    The first step makes all rows equally long. No bias correction is needed, since c removes whatever all rows have in common. A
    matrix with m <= n whose momentum has full rank has rows of equal norm already: there NorMuon is Muon.

    Args:
        params: as for :class:`~thalweg.optim.Muon`; the rule for matrices is called "normuon" in parameter groups.
        lr: learning rate of the matrices (default 0.02).
        momentum: of the running mean (default 0.95).
        nesterov: look one step ahead (default True; the paper's algorithm has False, its code True).
        weight_decay: decoupled decay of the matrices (default 0).
        beta2: weight of the past in the second moment (default 0.95); 0: of this step alone.
        norm_eps: :math:`\epsilon` (default 1e-10).
        update_scale: "preserve_norm" (default, as in the paper's code) or "match_rms" (as in its text).
        neuron_dim: 1 for weights stored as (in, out), whose neurons are columns; then everything acts as on the transposed matrix.
        ns_steps, ns_coefficients, eps, ns_dtype: see :class:`~thalweg.optim.Muon`.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (3e-4, (0.9, 0.95), 1e-10, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: ``momentum_buffer`` and one number a neuron, ``second_momentum``, for a matrix; two tensors a parameter for the rest.

    Raises:
        ValueError: as for :class:`~thalweg.optim.Muon`; ``neuron_dim=1`` with a convolution.

    Example:
        >>> import torch
        >>> from thalweg.optim import NorMuon
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = NorMuon(model, lr=0.02, rest_lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model[0].weight]["second_momentum"].shape
        torch.Size([8])
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        beta2: float = 0.95,
        norm_eps: float = 1e-10,
        update_scale: UpdateScale = "preserve_norm",
        neuron_dim: Literal[0, 1] = 0,
        ns_steps: int = 5,
        ns_coefficients: Coefficients = "quintic",
        eps: float = 1e-7,
        ns_dtype: torch.dtype | str | None = None,
        rest_lr: float = 3e-4,
        rest_betas: tuple[float, float] = (0.9, 0.95),
        rest_eps: float = 1e-10,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        chain = (
            momentum_of(momentum=momentum, nesterov=nesterov, ema=True)
            >> orthogonalize(
                ns_steps=ns_steps, ns_coefficients=ns_coefficients, eps=eps, adjust_lr_fn="none", ns_dtype=ns_dtype
            )
            >> normalize_neurons(beta2=beta2, norm_eps=norm_eps, update_scale=update_scale, neuron_dim=neuron_dim)
        )
        super().__init__(
            params,
            "normuon",
            chain,
            lr=lr,
            weight_decay=weight_decay,
            rest_lr=rest_lr,
            rest_betas=rest_betas,
            rest_eps=rest_eps,
            rest_weight_decay=rest_weight_decay,
            **options,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; of flattened convolutions, columns aren't neurons."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        flattened = [p for p in group["params"] if p.ndim > 2 and not group.get("batched")]
        if group.get("neuron_dim") == 1 and flattened:
            self.param_groups.pop()
            shape = tuple(flattened[0].shape)
            raise ValueError(f"neuron_dim=1 is for matrices stored as (in, out), not for a parameter of shape {shape}")
