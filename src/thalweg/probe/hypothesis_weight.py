r"""How much of a prior lies near the truth, and the regret that this weight bounds (arXiv:2506.07661).

A learner that averages over a prior :math:`\pi`, with each model weighted by the probability that it gave to the past, loses at most

.. math::
    R_n \le -\log \int e^{-n D(\theta)}\, d\pi(\theta) \le \min_\varepsilon \big[ n \varepsilon - \log W(\varepsilon) \big], \qquad
    W(\varepsilon) = \pi\{ D \le \varepsilon \},

nats more than the truth does over n examples, where D is the mean over inputs of the Kullback-Leibler divergence from the truth to
a model. The size of the class doesn't enter; what counts is how much of the prior lies close by.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class RegretBound(NamedTuple):
    """What :func:`regret_bound` gives, in nats.

    Args:
        bound: the least of n eps - log W(eps).
        eps: where it is the least.
        integral: the tighter bound, -log of the prior's mean of exp(-n D).
        effective_samples: of the integral: 1 if a single model makes it up, all where the models count alike.

    Example:
        >>> from thalweg.probe import RegretBound
        >>> RegretBound(4.1, 0.01, 3.2, 250.0).bound
        4.1
    """

    bound: float
    eps: float
    integral: float
    effective_samples: float


def hypothesis_weight(divergences: Tensor, eps: float, prior: Tensor | None = None) -> float:
    """The prior's share of models within ``eps`` of the truth; for a sample of the prior it is below its size's inverse or 0.

    Args:
        divergences: from the truth to each model, in nats, ``(models,)``.
        eps: at least 0.
        prior: probabilities of the models; by default all are alike, as for a sample of the prior.

    Raises:
        ValueError: a divergence is negative or NaN, eps is negative, or the prior isn't one (to 1e-6).

    Example:
        >>> hypothesis_weight(torch.tensor([0.0, 0.1, 0.5, 2.0]), 0.2)
        0.5
    """
    D, log_prior = _checked(divergences, prior)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, not {eps}")
    return log_prior[eps >= D].exp().sum().item()


def regret_bound(n: int, divergences: Tensor, prior: Tensor | None = None) -> RegretBound:
    """Both bounds on the regret of a Bayesian mixture after n examples.

    The least over eps is found exactly: it lies at the divergence of a model.

    Args:
        n: examples, at least 1.
        divergences: from the truth to each model, in nats, ``(models,)``; infinity is allowed.
        prior: as in :func:`hypothesis_weight`.

    Returns:
        :class:`RegretBound`. For a sample of the prior it bounds the mixture of the sampled models.

    Raises:
        ValueError: n is below 1, or as in :func:`hypothesis_weight`.

    Example:
        >>> round(regret_bound(100, torch.tensor([0.0, 1.0])).bound, 4)  # two models, one true: log 2
        0.6931
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    D, log_prior = _checked(divergences, prior)
    D, order = D.sort()
    weight = log_prior[order].logcumsumexp(0)
    bounds = n * D - weight
    best = int(bounds.argmin())
    parts = log_prior[order] - n * D
    integral = torch.logsumexp(parts, 0)
    effective = torch.exp(2 * integral - torch.logsumexp(2 * parts, 0)) if integral > -math.inf else torch.zeros(())
    return RegretBound(bounds[best].item(), D[best].item(), -integral.item(), effective.item())


class BayesianMixture:
    """Predicts by the average of all models, each weighted by its prior and by the probability that it gave to the past.

    Args:
        prior: probabilities of the models, ``(models,)``, or how many there are, all alike.

    Raises:
        ValueError: the prior isn't one (to 1e-6).

    Example:
        >>> mixture = BayesianMixture(2)  # one model says 0.9 each time, one 0.1
        >>> mixture.update(torch.tensor([0.9, 0.1]).log())
        >>> round(mixture.predict(torch.tensor([0.9, 0.1])).item(), 4)
        0.82
    """

    def __init__(self, prior: Tensor | int) -> None:
        given = torch.full((prior,), 1 / prior) if isinstance(prior, int) else prior
        self._log = _checked(torch.zeros_like(given), given)[1]
        self.log_loss = 0.0
        """Sum of the mixture's losses so far, in nats."""

    @property
    def posterior(self) -> Tensor:
        """Weights of the models now, ``(models,)``, float64."""
        return self._log.exp()

    def predict(self, probabilities: Tensor) -> Tensor:
        """The mixture's probabilities.

        Args:
            probabilities: that the models give, ``(models, ...)``.

        Returns:
            ``(...)``, float64.
        """
        return torch.tensordot(self.posterior, probabilities.double(), 1)

    def update(self, log_probabilities: Tensor) -> None:
        """Take note of what happened.

        Args:
            log_probabilities: that each model gave to it, ``(models,)``.

        Raises:
            ValueError: no model with any weight left gave it a probability.
        """
        joint = self._log + log_probabilities.double()
        total = torch.logsumexp(joint, 0)
        if not total > -math.inf:
            raise ValueError("every model that is left gave this probability 0")
        self.log_loss -= total.item()
        self._log = joint - total

    def regret(self, log_loss: float) -> float:
        """The mixture's losses so far less another one's, say the truth's ``log_loss``, in nats."""
        return self.log_loss - log_loss


def _checked(divergences: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor]:
    D = divergences.double().flatten()
    if not len(D) or not bool((D >= 0).all()):
        raise ValueError("divergences must be at least 0, one for each model")
    if prior is None:
        return D, torch.full_like(D, -math.log(len(D)))
    P = prior.double().flatten()
    if P.shape != D.shape or not bool((P >= 0).all()) or abs(P.sum().item() - 1) > 1e-6:
        raise ValueError(f"prior must be {len(D)} probabilities that add up to 1, not to {P.sum().item():g}")
    return D, P.log()
