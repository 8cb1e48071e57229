"""Steps that only shared directions make: winsorized gradients and medians of micro-batches (arXiv:2203.10036)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.optim.engine import elementwise
from thalweg.registry import method

SORT_BELOW, SORT_FROM_C = 1024, 8
"""Columns below which, and c from which, sorting beats keeping the extremes while going through the rows."""

BLOCK = 1 << 22
"""Elements worked on at a time."""


def winsorized_mean(gradients: Tensor, c: int) -> Tensor:
    r"""The mean over examples after the c smallest and c largest values of every coordinate are pulled in (arXiv:2203.10036).

    .. math:: u_j = \frac1b \sum_i \min(\max(g_{ij},\, g_{(c+1)j}),\, g_{(b-c)j}),
        \qquad g_{(1)j} \le \dots \le g_{(b)j} \text{ in order}

    With c = 0 it is the mean; with the largest c, :math:`\lfloor (b-1)/2 \rfloor`, the median (of an even number: the mean of the
    middle two). A direction that at most c examples ask for is not taken. NaN stays NaN.

    Args:
        gradients: ``(b, ...)``, a row an example or micro-batch.
        c: how many values to pull in at each end, with 2 c < b.

    Returns:
        ``(...)``.

    Raises:
        ValueError: c out of range.

    Example:
        >>> winsorized_mean(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]), c=1)
        tensor([0.5000, 0.5000])
    """
    count = len(gradients)
    if c < 0 or 2 * c >= count:
        raise ValueError(f"c must be from 0 to {(count - 1) // 2} for {count} gradients, not {c}")
    if c == 0:
        return gradients.mean(0)
    rows = gradients.reshape(count, -1)  # a scalar's gradients are (b,)
    bounds = _sorted_bounds if c >= SORT_FROM_C or rows.shape[1] < SORT_BELOW else _running_bounds
    means = [block.clamp(*bounds(block, c)).mean(0) for block in rows.split(max(1, BLOCK // count), dim=1)]
    return torch.cat(means).view(gradients.shape[1:])


def _sorted_bounds(rows: Tensor, c: int) -> tuple[Tensor, Tensor]:
    ordered = rows.sort(0).values
    return ordered[c], ordered[-1 - c]


def _running_bounds(rows: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """The same, keeping the c + 1 smallest and largest so far: several times quicker where they are few."""
    lows = [torch.full_like(rows[0], torch.inf) for _ in range(c + 1)]
    highs = [torch.full_like(rows[0], -torch.inf) for _ in range(c + 1)]
    for row in rows:
        low = high = row
        for place in range(c + 1):
            lows[place], low = torch.minimum(lows[place], low), torch.maximum(lows[place], low)
            highs[place], high = torch.maximum(highs[place], high), torch.minimum(highs[place], high)
    return lows[c], highs[c]


def median_of_three(gradients: Tensor | Sequence[Tensor]) -> Tensor:
    """The coordinate-wise median of three gradients ("M3", arXiv:2203.10036); exact, and NaN where one is NaN.

    Args:
        gradients: three tensors of one shape, or ``(3, ...)``.

    Raises:
        ValueError: not three.

    Example:
        >>> median_of_three(torch.tensor([[1.0, -2.0, 0.1], [1.2, 5.0, 0.0], [0.9, -1.0, -3.0]]))
        tensor([ 1., -1.,  0.])
    """
    if len(gradients) != 3:
        raise ValueError(f"median_of_three takes 3 gradients, not {len(gradients)}")
    first, second, third = gradients
    return torch.maximum(torch.minimum(first, second), torch.minimum(torch.maximum(first, second), third))


class MicroBatchGradients:
    """Holds the gradients of a step's micro-batches and puts what they have in common into ``p.grad``.

    Between ``backward()`` and ``optimizer.step()``, so that any optimizer follows. Memory: as many gradients as there are
    micro-batches.

    Under data parallelism ``backward()`` has averaged each micro-batch's gradient over the processes already, so every process
    combines the same. Layers with batch statistics see micro-batches.

    Args:
        params: a module or parameters; the trainable ones are used.
        combine: makes ``(...)`` of ``(k, ...)``, for each parameter: :func:`median_of_three` (default), or, say,
            ``functools.partial(winsorized_mean, c=2)``.

    Raises:
        ValueError: in ``combine``, nothing was stored; in ``store_rows``, rows of another length.
        RuntimeError: in ``store``, a sparse gradient; all are left where they are.

    Example:
        >>> from torch import nn
        >>> from thalweg.optim import SGD
        >>> model = nn.Linear(4, 1)
        >>> optimizer, gradients = SGD(model, lr=0.1), MicroBatchGradients(model)
        >>> x, y = torch.randn(99, 4), torch.randn(99, 1)
        >>> for inputs, targets in zip(x.chunk(3), y.chunk(3)):
        ...     nn.functional.mse_loss(model(inputs), targets).backward()
        ...     gradients.store()
        >>> gradients.combine()
        >>> optimizer.step()
    """

    def __init__(
        self, params: nn.Module | Iterable[Tensor], combine: Callable[[Tensor], Tensor] = median_of_three
    ) -> None:
        given = params.parameters() if isinstance(params, nn.Module) else params
        self.params = [p for p in given if p.requires_grad]
        self._combine = combine
        self._stored: list[list[Tensor | None]] = []

    def __len__(self) -> int:
        return len(self._stored)

    def store(self) -> None:
        """Take the gradients of the last ``backward()`` away from the parameters."""
        if any(p.grad is not None and p.grad.layout is not torch.strided for p in self.params):
            raise RuntimeError("MicroBatchGradients does not support sparse gradients (make the embedding dense)")
        self._stored.append([p.grad for p in self.params])
        for p in self.params:
            p.grad = None

    def store_rows(self, rows: Tensor) -> None:
        """Take gradients ``(k, P)`` as :func:`thalweg.autodiff.per_example_gradients` gives them, columns in the parameters' order."""
        sizes = [p.numel() for p in self.params]
        if rows.ndim != 2 or rows.shape[1] != sum(sizes):
            raise ValueError(f"rows must have {sum(sizes)} numbers each, not shape {tuple(rows.shape)}")
        for row in rows.detach():
            parts = row.split(sizes)
            self._stored.append([part.view(p.shape) for part, p in zip(parts, self.params, strict=True)])

    def combine(self) -> None:
        """Set every ``p.grad`` to the combination of what was stored, and forget that. Parameters that never had a gradient get none;
        one that is missing now and then counts as zero."""
        if not self._stored:
            raise ValueError("no gradients to combine: call store() after each backward()")
        with torch.no_grad():
            for place, p in enumerate(self.params):
                own = [gradients[place] for gradients in self._stored]
                if any(g is not None for g in own):
                    p.grad = self._combine(torch.stack([torch.zeros_like(p) if g is None else g for g in own]))
        self._stored = []


def _filled(step: int, **_: Any) -> dict[str, float]:
    return {"filled": float(step > 2)}


@method("rolling_median", use="Labels or gradients that are partly wrong, at two more state tensors.")
@elementwise(state=("second_last_grad", "last_grad"), prepare=_filled)
def rolling_median(update: Tensor, param: Tensor, state: dict[str, Tensor], *, filled: Any) -> Tensor:
    r"""The median of the last three steps' gradients, coordinate by coordinate ("RM3", arXiv:2203.10036).

    .. math:: u_t = \mathrm{median}(g_t, g_{t-1}, g_{t-2}), \qquad u_1 = g_1,\; u_2 = g_2

    Put it first in a chain: ``SGD(model, before=rolling_median())``. Unlike :func:`median_of_three` it needs no further gradients, but
    the older two belong to older weights. A coordinate whose gradient is zero in two steps of three never moves: rare features, such
    as an embedding's rows, aren't learned. State: two tensors a parameter.

    Example:
        >>> from thalweg.optim import Chained, rolling_median
        >>> p = nn.Parameter(torch.zeros(1))
        >>> optimizer = Chained([p], rolling_median(), lr=1.0)
        >>> for gradient in (1.0, 1.0, 100.0):  # an outlier doesn't get through
        ...     p.grad = torch.full((1,), gradient)
        ...     optimizer.step()
        >>> p.data
        tensor([-3.])
    """
    last, second = state["last_grad"], state["second_last_grad"]
    state["second_last_grad"], state["last_grad"] = last.clone(), update
    return torch.where(torch.as_tensor(filled) > 0, median_of_three((second, last, update)), update)
