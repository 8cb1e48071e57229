"""The diagonal of the Gauss-Newton matrix from one gradient, by labels drawn from the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.autodiff.closure import Closure

Likelihood = Literal["categorical", "bernoulli", "gaussian"] | Callable[[Any, Any, torch.Generator | None], Any]


def gauss_newton_bartlett(
    closure: Closure,
    params: Sequence[Tensor],
    *,
    likelihood: Likelihood | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    r"""An unbiased estimate of the Gauss-Newton matrix's diagonal, from one extra gradient.

    .. math:: \hat h = B\, \hat g \odot \hat g, \qquad \hat g = \nabla_\theta \frac1B \sum_b \ell(f_\theta(x_b), \hat y_b),
        \qquad \hat y_b \sim p(\cdot \mid f_\theta(x_b))

    By Bartlett's identity the expected gradient under the model's own labels is zero, so that the mixed terms of the square
    vanish in the mean. With the data's labels it would be the empirical Fisher, another matrix. ``B`` counts the **terms** of the
    mean (tokens for a language model). Never negative. The parameters' ``.grad`` is not touched.

    Args:
        closure: model, loss and batch on one process; the loss is the mean over its terms and a negative log-likelihood.
        params: tensors to differentiate by.
        likelihood: see :func:`sample_targets`.
        generator: source of the labels, on the outputs' device; ``None``: torch's own.

    Returns:
        One tensor for each parameter, of its shape.

    Example:
        >>> from torch.nn import functional as F
        >>> from thalweg.autodiff import Closure, gauss_newton_bartlett
        >>> net = nn.Linear(2, 3)
        >>> closure = Closure(net, F.cross_entropy, torch.randn(8, 2), torch.zeros(8, dtype=torch.long))
        >>> [bool((h >= 0).all()) for h in gauss_newton_bartlett(closure, list(net.parameters()))]
        [True, True]
    """
    loss, terms = sampled_loss(closure, likelihood=likelihood, generator=generator)
    gradients = torch.autograd.grad(loss, list(params), materialize_grads=True)
    return [terms * g * g for g in gradients]


def sampled_loss(
    closure: Closure, *, likelihood: Likelihood | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, int]:
    """The closure's loss under targets drawn from the model, with its graph, and the number of terms in its mean."""
    outputs = closure.outputs()
    targets, terms = sample_targets(
        outputs, closure.targets, likelihood or likelihood_of(closure.loss_fn, outputs, closure.targets), generator
    )
    return closure.loss(outputs, targets), terms


def sample_targets(
    outputs: Any, targets: Any, likelihood: Likelihood, generator: torch.Generator | None = None
) -> tuple[Any, int]:
    r"""Targets drawn from what the model predicts, in the form of ``targets``.

    Args:
        outputs: the model's, e.g. logits.
        targets: the batch's own; they give the form, and negative class numbers (ignored positions) stay.
        likelihood: ``"categorical"``: ``outputs`` are logits with the classes last or, as in ``cross_entropy``, second;
            ``"bernoulli"``: logits of independent yes or no; ``"gaussian"``: the loss is torch's ``mse_loss`` (the mean square
            **without** 1/2), so :math:`y \sim \mathcal{N}(f, \tfrac12)`; or your own
            ``sample(outputs, targets, generator) -> targets``.
        generator: on the outputs' device.

    Returns:
        The drawn targets, and how many terms the mean loss has: elements of ``targets`` that aren't ignored.

    Raises:
        ValueError: an unknown likelihood, or shapes that don't fit it.
    """
    if callable(likelihood):
        drawn = likelihood(outputs, targets, generator)
        return drawn, _count(drawn)
    with torch.no_grad():
        if likelihood == "categorical":
            return _draw_classes(outputs, targets, generator)
        check_likelihood(likelihood)
        if outputs.shape != targets.shape:
            raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} must have one shape")
        if likelihood == "bernoulli":
            drawn = torch.bernoulli(outputs.float().sigmoid(), generator=generator)
        else:
            noise = torch.empty_like(outputs).normal_(generator=generator)
            drawn = outputs + noise * 0.5**0.5
        return drawn.to(targets.dtype), drawn.numel()


def check_likelihood(likelihood: Any) -> None:
    """Raise a :class:`ValueError` unless it is a name or function that :func:`sample_targets` takes."""
    if not callable(likelihood) and likelihood not in ("categorical", "bernoulli", "gaussian"):
        raise ValueError(f"unknown likelihood {likelihood!r} (choose from categorical, bernoulli, gaussian)")


def likelihood_of(loss_fn: Any, outputs: Any, targets: Any) -> Likelihood:
    """The likelihood whose negative logarithm ``loss_fn`` is, as far as it can be told.

    Raises:
        ValueError: it can't; name it.
    """
    if loss_fn is F.mse_loss or isinstance(loss_fn, nn.MSELoss):
        return "gaussian"
    if loss_fn is F.binary_cross_entropy_with_logits or isinstance(loss_fn, nn.BCEWithLogitsLoss):
        return "bernoulli"
    if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
        classes = not targets.is_floating_point() and outputs.ndim == targets.ndim + 1
        if classes:
            return "categorical"
    raise ValueError(
        "can't tell which likelihood this loss belongs to: say likelihood='categorical', 'bernoulli' or 'gaussian', "
        "or give a function that draws targets"
    )


def _draw_classes(outputs: Tensor, targets: Tensor, generator: torch.Generator | None) -> tuple[Tensor, int]:
    logits = outputs.movedim(_class_dim(outputs, targets), -1)
    probabilities = logits.reshape(-1, logits.shape[-1]).float().softmax(-1)
    drawn = torch.multinomial(probabilities, 1, generator=generator).view(targets.shape).to(targets.dtype)
    if not targets.dtype.is_signed:
        return drawn, drawn.numel()
    ignored = targets < 0
    return torch.where(ignored, targets, drawn), drawn.numel() - int(ignored.sum())


def _class_dim(outputs: Tensor, targets: Tensor) -> int:
    last, second = outputs.shape[:-1] == targets.shape, (*outputs.shape[:1], *outputs.shape[2:]) == targets.shape
    if outputs.ndim == 2 and last:
        return 1
    if last == second:
        trouble = "fit with the classes last and second alike" if last else "don't fit together"
        raise ValueError(
            f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} {trouble}: give a function that draws targets"
        )
    return outputs.ndim - 1 if last else 1


def _count(targets: Any) -> int:
    if not isinstance(targets, Tensor):
        raise ValueError(f"drawn targets must be a tensor, not {type(targets).__name__}")
    return targets.numel()
