"""Maximum likelihood of a mixture of equal, round Gaussians, by expectation maximization (arXiv:2303.01566)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class SphericalMixtureMLE:
    r"""Fit :math:`p(x) = \frac1K \sum_k N(x; u_k, \sigma^2 I)`, with weights and :math:`\sigma^2` known.

    Each step replaces every centre by the mean of the samples, weighted by the probabilities that it made them,
    :math:`r_{ik} \propto e^{-\|x_i - u_k\|^2 / 2 \sigma^2}`; so the likelihood never falls. A start draws centres one by one among
    the samples, with chances in proportion to the squared distance from those before (k-means++); of several starts the one
    of highest likelihood is kept.

    Args:
        clusters: K.
        noise_var: :math:`\sigma^2` (default 1).
        starts: how many (default 5).
        max_iter: steps of each start (default 100).
        tol: stop when the mean log-likelihood grows by less (default 1e-8).

    Attributes:
        centres_: ``(K, d)``, in no particular order; what :meth:`fit` adds.
        log_likelihood_: mean over samples, in nats.

    Raises:
        ValueError: sizes below 1, noise not above 0, or fewer samples than clusters.

    Example:
        >>> X = torch.tensor([[0.0], [0.1], [8.0], [8.1]])
        >>> SphericalMixtureMLE(2, noise_var=0.1).fit(X, generator=torch.Generator().manual_seed(0)).centres_.sort(0).values
        tensor([[0.0500],
                [8.0500]])
    """

    centres_: Tensor
    log_likelihood_: float

    def __init__(
        self, clusters: int, noise_var: float = 1.0, *, starts: int = 5, max_iter: int = 100, tol: float = 1e-8
    ) -> None:
        if min(clusters, starts, max_iter) < 1 or not noise_var > 0:
            raise ValueError("clusters, starts and max_iter must be at least 1 and noise_var positive")
        self.clusters, self.noise_var, self.starts, self.max_iter, self.tol = clusters, noise_var, starts, max_iter, tol

    def fit(self, X: Tensor, *, generator: torch.Generator | None = None) -> SphericalMixtureMLE:
        """Estimate from unlabelled samples.

        Args:
            X: ``(m, d)``.
            generator: of the starts.
        """
        if X.dim() != 2 or len(X) < self.clusters:
            raise ValueError(f"X must be a matrix of at least {self.clusters} rows, not of shape {tuple(X.shape)}")
        tried = [self._climb(X, self._start(X, generator)) for _ in range(self.starts)]
        self.log_likelihood_, self.centres_ = max(tried, key=lambda found: found[0])
        return self

    def transform(self, X: Tensor) -> Tensor:
        """Probability that each cluster made each sample, ``(n, K)``.

        Args:
            X: ``(n, d)``.
        """
        return self._logits(X, self.centres_).softmax(-1)

    def _logits(self, X: Tensor, centres: Tensor) -> Tensor:
        """-|x - u|^2 / (2 noise_var)."""
        squares = X.square().sum(-1, keepdim=True) - 2 * X @ centres.mT + centres.square().sum(-1)
        return -squares / (2 * self.noise_var)

    def _start(self, X: Tensor, generator: torch.Generator | None) -> Tensor:
        centres = X[torch.randint(len(X), (1,), generator=generator)]
        while len(centres) < self.clusters:
            distance = torch.cdist(X, centres).amin(1).square()
            chances = distance if distance.sum() > 0 else torch.ones_like(distance)  # all samples may be alike
            centres = torch.cat([centres, X[torch.multinomial(chances, 1, generator=generator)]])
        return centres

    def _climb(self, X: Tensor, centres: Tensor) -> tuple[float, Tensor]:
        constant = math.log(self.clusters) + X.shape[1] / 2 * math.log(2 * math.pi * self.noise_var)
        last = -math.inf
        for _ in range(self.max_iter):
            logits = self._logits(X, centres)
            now = logits.logsumexp(1).mean().item() - constant
            if now - last < self.tol:
                break
            last = now
            shares = logits.softmax(1)
            centres = shares.mT @ X / shares.sum(0).clamp(min=torch.finfo(X.dtype).tiny).unsqueeze(1)
        return now, centres
