"""Samples of a posterior by Langevin dynamics (arXiv:2506.07661 names it as the way that training by SGD averages over models)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def langevin_samples(
    log_likelihood: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    step_size: float,
    steps: int,
    burn_in: int = 0,
    every: int = 1,
    prior_std: float = 1.0,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Weights drawn from the posterior of a normal prior, by (stochastic gradient) Langevin dynamics.

    .. math::
        \theta \leftarrow \theta - \tfrac h2 \nabla U(\theta) + \sqrt{h \tau}\, \xi, \qquad
        U(\theta) = \frac{\|\theta\|^2}{2 \sigma^2} - \log P(y \mid x, \theta)

    with standard normal :math:`\xi`. Only temperature :math:`\tau = 1` samples the posterior, and only for small steps: their error
    grows with h. Predict by the mean of the samples' probabilities, not of their logits.

    Args:
        log_likelihood: of **all** examples, for weights ``(chains, d)``, giving ``(chains,)``; on a batch of B of n, the batch's times
            n / B.
        start: ``(chains, d)``; chains run side by side and don't touch.
        step_size: h.
        steps: in all, ``burn_in`` included.
        burn_in: steps before the first sample (default 0).
        every: steps between samples (default 1).
        prior_std: sigma, the standard deviation of each weight under the prior.
        temperature: tau.
        generator: for the noise.

    Returns:
        ``(samples, chains, d)``, with ``(steps - burn_in) // every`` samples.

    Raises:
        ValueError: a step size or standard deviation that isn't positive, a negative temperature, or no step left to sample.
        RuntimeError: a chain left the finite numbers: take smaller steps.

    Example:
        >>> found = langevin_samples(lambda w: -2 * w.square().sum(1), torch.zeros(1, 1), step_size=0.05, steps=9000, burn_in=1000)
        >>> found.shape, 0.1 < found.var().item() < 0.3  # variance 1 / (1 + 4) of the posterior
        (torch.Size([8000, 1, 1]), True)
    """
    if not step_size > 0 or not prior_std > 0 or not temperature >= 0:
        raise ValueError(
            f"step_size and prior_std must be positive, temperature at least 0, not {step_size}, {prior_std}, {temperature}"
        )
    if every < 1 or burn_in < 0 or steps - burn_in < every:
        raise ValueError(f"no step is left to sample: steps {steps}, burn_in {burn_in}, every {every}")
    theta, kept = start.detach().clone(), []
    for step in range(1, steps + 1):
        theta = theta.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_likelihood(theta).sum(), theta)
        with torch.no_grad():
            noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=theta.device)
            drift = slope - theta / prior_std**2
            theta = theta + 0.5 * step_size * drift + math.sqrt(step_size * temperature) * noise
        if step > burn_in and (step - burn_in) % every == 0:
            if not bool(theta.isfinite().all()):
                raise RuntimeError(
                    f"a chain left the finite numbers by step {step}: take smaller steps than {step_size}"
                )
            kept.append(theta.detach().clone())
    return torch.stack(kept)
