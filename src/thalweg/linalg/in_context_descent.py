r"""Several gradient steps on the examples of a prompt, and the best single one for any law of inputs (arXiv:2212.07677)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def descent_predict(
    X: Tensor,
    y: Tensor,
    xq: Tensor,
    lrs: Sequence[float | Tensor] | Tensor,
    gammas: Sequence[float | Tensor] | Tensor | None = None,
) -> Tensor:
    r"""Prediction of gradient descent from zero on :math:`\frac{1}{2n} \sum_i (w^\top x_i - y_i)^2`, or of GD++.

    The data are transformed and the weights stay implicit: in step k

    .. math::
        h = \sum_i y_i x_i, \quad \hat y_q \leftarrow \hat y_q + \tfrac{\eta_k}{n} x_q^\top h, \quad
        y_i \leftarrow y_i - \tfrac{\eta_k}{n} x_i^\top h, \quad
        x \leftarrow (I - \gamma_k \textstyle\sum_i x_i x_i^\top)\, x

    for all inputs, the query's too. Without this last part, which is GD++'s, :math:`y_i` are the residuals, and this is plain
    gradient descent.

    Args:
        X: examples, ``(..., n, dim)``.
        y: their targets, ``(..., n)``.
        xq: queries, ``(..., dim)``.
        lrs: step sizes :math:`\eta_k` on the mean gradient, one for each step.
        gammas: :math:`\gamma_k`, on the *sum* over the examples; ``None``: plain gradient descent. The last has no effect.

    Returns:
        ``(...)``; differentiable in everything.

    Raises:
        ValueError: no step, or not as many ``gammas`` as ``lrs``.

    Example:
        >>> X, y = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 1.0])
        >>> descent_predict(X, y, torch.tensor([2.0]), [0.5])
        tensor(2.5000)
        >>> descent_predict(X, y, torch.tensor([2.0]), [0.5] * 40)  # arrives at least squares: w = 1
        tensor(2.)
    """
    n, steps = X.shape[-2], len(lrs)
    if steps < 1 or (gammas is not None and len(gammas) != steps):
        found = "none" if gammas is None else len(gammas)
        raise ValueError(f"one lr and one gamma are needed for each step, not {steps} and {found}")
    prediction = xq.new_zeros(xq.shape[:-1])
    for k in range(steps):
        h = lrs[k] / n * (X.mT @ y.unsqueeze(-1))
        prediction = prediction + (xq.unsqueeze(-2) @ h).squeeze(-1).squeeze(-1)
        if k + 1 == steps:
            break
        y = y - (X @ h).squeeze(-1)
        if gammas is not None:
            gram = X.mT @ X
            X, xq = X - gammas[k] * X @ gram, xq - gammas[k] * (xq.unsqueeze(-2) @ gram).squeeze(-2)
    return prediction


def optimal_iid_step(dim: int, n: int, second_moment: float, fourth_moment: float) -> float:
    r"""Best step size where the inputs' coordinates are independent with a common symmetric law, and weights standard normal.

    From :math:`E[y_q\, x_q^\top h] = d s_2^2` and :math:`E[(x_q^\top h)^2] = s_2 E\|h\|^2` with
    :math:`h = \frac1n \sum_i y_i x_i` and :math:`E \|h\|^2 = d \left(\frac{n-1}{n} s_2^2 + \frac{m_4 + (d-1) s_2^2}{n}\right)`,

    .. math:: \eta^* = s_2 \Big/ \Bigl( \tfrac{n-1}{n} s_2^2 + \tfrac1n \bigl(m_4 + (d - 1) s_2^2\bigr) \Bigr);

    half the expected squared error is then :math:`\frac12 d s_2 (1 - s_2 \eta^*)`. No noise.

    Args:
        dim: length d of the inputs.
        n: examples.
        second_moment, fourth_moment: :math:`s_2` and :math:`m_4` of a coordinate; 1/3 and 1/5 for uniform on [-1, 1],
            1 and 3 for standard normal.

    Raises:
        ValueError: a size below 1, or moments that no law has.

    Example:
        >>> round(optimal_iid_step(5, 10, 1 / 3, 1 / 5), 4)
        2.027
    """
    if dim < 1 or n < 1:
        raise ValueError(f"dim and n must be at least 1, not {dim} and {n}")
    if not 0 < second_moment**2 <= fourth_moment:
        raise ValueError(f"no law has second moment {second_moment} and fourth moment {fourth_moment}")
    square = second_moment**2
    return second_moment / ((n - 1) / n * square + (fourth_moment + (dim - 1) * square) / n)
