"""Maximum likelihood of a linear factor model with known noise, in closed form (arXiv:2303.01566)."""

from __future__ import annotations

import torch
from torch import Tensor


class FactorModelMLE:
    r"""Fit :math:`x = B z + e`, :math:`z \sim N(0, I_r)`, :math:`e \sim N(0, \sigma^2 I_d)`, with :math:`\sigma^2` known.

    With the top eigenpairs :math:`(l_k, u_k)` of :math:`S = X^\top X / m` (the mean is known to be 0: nothing is centred),

    .. math::
        \hat B = \left(\sqrt{(l_k - \sigma^2)_+}\, u_k\right)_{k \le r}, \qquad
        \hat z(x) = E[z \mid x] = (\hat B^\top \hat B + \sigma^2 I_r)^{-1} \hat B^\top x.

    B is known up to a rotation of its columns only, which a linear predictor on top absorbs. A direction whose eigenvalue doesn't
    exceed the noise gets a column of zeros.

    Args:
        rank: r.
        noise_var: :math:`\sigma^2` (default 1).

    Attributes:
        components_: :math:`\hat B`, ``(d, r)``, strongest column first; what :meth:`fit` adds.

    Raises:
        ValueError: a rank below 1 or, in :meth:`fit`, not below d; noise not above 0; no samples; other sizes than those fitted.

    Example:
        >>> model = FactorModelMLE(rank=1).fit(torch.diag(torch.tensor([10.0, 1.0]).sqrt()))  # S = diag(5, 0.5)
        >>> model.components_.abs().round(decimals=3).squeeze(1), model.transform(torch.zeros(4, 2)).shape
        (tensor([2., 0.]), torch.Size([4, 1]))
    """

    components_: Tensor

    def __init__(self, rank: int, noise_var: float = 1.0) -> None:
        if rank < 1 or not noise_var > 0:
            raise ValueError(f"rank must be at least 1 and noise_var positive, not {rank} and {noise_var}")
        self.rank, self.noise_var = rank, noise_var

    def fit(self, X: Tensor) -> FactorModelMLE:
        """Estimate from unlabelled samples.

        Args:
            X: ``(m, d)``, of mean 0.
        """
        if X.dim() != 2 or not len(X):
            raise ValueError(f"X must be a matrix with at least one row, not of shape {tuple(X.shape)}")
        return self.fit_covariance(X.mT @ X / len(X))

    def fit_covariance(self, S: Tensor) -> FactorModelMLE:
        """Estimate from the second moments alone.

        Args:
            S: ``(d, d)``, symmetric; the population's gives the population's subspace.
        """
        if self.rank >= len(S):
            raise ValueError(f"rank must be below the {len(S)} features, not {self.rank}")
        values, vectors = torch.linalg.eigh(S)
        kept = (values[-self.rank :] - self.noise_var).clamp(min=0).sqrt()
        self.components_ = (vectors[:, -self.rank :] * kept).flip(-1)
        return self

    def map(self) -> Tensor:
        """The matrix A, ``(d, r)``, of the features :math:`A^\\top x = E[z | x]`."""
        B = self.components_
        inner = B.mT @ B + self.noise_var * torch.eye(self.rank, dtype=B.dtype, device=B.device)
        return torch.linalg.solve(inner, B.mT).mT

    def transform(self, X: Tensor) -> Tensor:
        """Expected factors of samples, ``(n, r)``.

        Args:
            X: ``(n, d)``.
        """
        if X.shape[-1] != len(self.components_):
            raise ValueError(f"X must have {len(self.components_)} features, not {X.shape[-1]}")
        return X @ self.map()
