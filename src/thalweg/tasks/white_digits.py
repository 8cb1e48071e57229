"""MNIST digits with white inputs: what theory of linear networks asks for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.tasks.mnist5k import read_images
from thalweg.tasks.remembered import remembered


def white_digits(dim: int) -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST digits' first principal components, each of mean 0 and variance 1, and their classes.

    Args:
        dim: components to keep, 1 to about 500 (some of the 784 pixels never change).

    Returns:
        Components, float64 of shape (5000, dim), largest variance first, and classes, int64 of shape (5000,).
    """
    images, variances, axes, labels = _principal_axes()
    if not 1 <= dim <= len(variances):
        raise ValueError(f"dim must lie between 1 and {len(variances)}, not {dim}")
    return images @ axes[:, :dim] / variances[:dim].sqrt(), labels


@remembered
def class_modes(dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values of ``E[y x^T]``, ``y`` the one-hot class and ``x`` :func:`white_digits`.

    The inputs have mean zero, so the ten rows add up to zero and there are nine modes.

    Args:
        dim: components of ``x``, 9 or more.

    Returns:
        ``U`` (10, 9), ``s`` (9,) and ``V`` (dim, 9), float64.
    """
    x, labels = white_digits(dim)
    U, s, Vh = torch.linalg.svd(F.one_hot(labels, 10).to(x).T @ x / len(x), full_matrices=False)
    return U[:, :9], s[:9], Vh[:9].mH


@remembered
def _principal_axes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, labels = read_images()
    pixels = images.flatten(1).double()
    pixels -= pixels.mean(0)
    variances, axes = torch.linalg.eigh(pixels.T @ pixels / len(pixels))
    kept = (variances > 1e-9 * variances[-1]).sum()
    return pixels, variances.flip(0)[:kept], axes.flip(1)[:, :kept], labels
