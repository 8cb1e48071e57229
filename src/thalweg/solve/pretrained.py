"""Fit a model of the inputs without labels, then a predictor on what it makes of them (arXiv:2303.01566)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Representation(Protocol):
    """A model of the inputs, such as :class:`~thalweg.solve.FactorModelMLE`; ``fit`` sees no labels."""

    def fit(self, X: Tensor) -> object: ...

    def transform(self, X: Tensor) -> Tensor: ...


class Head(Protocol):
    """A predictor from representations."""

    def fit(self, Z: Tensor, y: Tensor) -> object: ...

    def predict(self, Z: Tensor) -> Tensor: ...


class LeastSquares:
    r"""Linear predictor :math:`y \approx Z b` of least squared error, without intercept; of several, the shortest.

    Attributes:
        coef_: b, ``(..., r)``; what :meth:`fit` adds.

    Example:
        >>> LeastSquares().fit(torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)).coef_
        tensor([1., 2.], dtype=torch.float64)
    """

    coef_: Tensor

    def fit(self, Z: Tensor, y: Tensor) -> LeastSquares:
        """Fit one or many problems.

        Args:
            Z: ``(..., n, r)``.
            y: ``(..., n)``.
        """
        self.coef_ = (torch.linalg.pinv(Z) @ y.unsqueeze(-1)).squeeze(-1)
        return self

    def predict(self, Z: Tensor) -> Tensor:
        """``(..., n)``."""
        return (Z @ self.coef_.unsqueeze(-1)).squeeze(-1)


class ClusterVote:
    """Each cluster takes the label that most of its samples have, samples voting by their probability of being in it.

    A cluster that got no votes takes the label of most samples.

    Args:
        classes: number of labels.

    Attributes:
        labels_: of the clusters, ``(K,)``; what :meth:`fit` adds.

    Example:
        >>> vote = ClusterVote(2).fit(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), torch.tensor([1, 1, 0]))
        >>> vote.labels_, vote.predict(torch.tensor([[0.3, 0.7]]))
        (tensor([1, 0]), tensor([0]))
    """

    labels_: Tensor

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def fit(self, Z: Tensor, y: Tensor) -> ClusterVote:
        """Count votes.

        Args:
            Z: probabilities of the clusters, ``(n, K)``.
            y: labels from 0, ``(n,)``.
        """
        told = F.one_hot(y, self.classes).to(Z.dtype)
        self.labels_ = (Z.mT @ told + 1e-6 * told.mean(0)).argmax(1)  # the small part decides where there are no votes
        return self

    def predict(self, Z: Tensor) -> Tensor:
        """The label of largest probability, ``(n,)``."""
        return (Z @ F.one_hot(self.labels_, self.classes).to(Z.dtype)).argmax(1)


class PretrainThenERM:
    """Two phases: ``representation.fit`` on unlabelled inputs, then ``head.fit`` on representations of labelled ones.

    Labels pay for the head alone, if the model of the inputs tells what the target depends on. Where it doesn't, what the first phase
    missed can't be made good by any number of labels.

    Args:
        representation: something with ``fit(X)`` and ``transform(X)``.
        head: something with ``fit(Z, y)`` and ``predict(Z)`` (default :class:`LeastSquares`).

    Example:
        >>> from thalweg.solve import FactorModelMLE
        >>> draws = torch.Generator().manual_seed(0)
        >>> z = torch.randn(1000, 1, generator=draws)
        >>> X = z * torch.tensor([3.0, 4.0]) + torch.randn(1000, 2, generator=draws)
        >>> model = PretrainThenERM(FactorModelMLE(1)).fit(X, X[:5], z[:5, 0])
        >>> abs(model.predict(torch.tensor([[3.0, 4.0]])).item() - 1) < 0.1
        True
    """

    def __init__(self, representation: Representation, head: Head | None = None) -> None:
        self.representation = representation
        self.head: Head = LeastSquares() if head is None else head

    def fit(self, X_unlabelled: Tensor, X: Tensor, y: Tensor) -> PretrainThenERM:
        """Both phases.

        Args:
            X_unlabelled: ``(m, d)``.
            X: ``(n, d)``.
            y: ``(n,)``.
        """
        self.representation.fit(X_unlabelled)
        self.head.fit(self.representation.transform(X), y)
        return self

    def predict(self, X: Tensor) -> Tensor:
        """Predictions of the head, ``(n,)``."""
        return self.head.predict(self.representation.transform(X))
