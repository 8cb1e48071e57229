"""Models of six kinds, from a tree to a convolutional network, that learn a few hundred small digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.probe import kernel_hypothesis_posterior, rbf_kernel
from thalweg.tasks.mnist5k import read_images
from thalweg.tasks.remembered import remembered
from thalweg.tasks.split import stratified_split

CLASSES = 10
MODELS = ("convolutional", "fully connected", "kernel regression", "ridge", "nearest neighbours", "tree")
GRIDS = {
    "convolutional": (-3.5, -3.0, -2.5, -2.0),
    "fully connected": (-3.5, -3.0, -2.5, -2.0),
    "kernel regression": (-0.75, -0.5, -0.25, 0.0),
    "ridge": (-2.0, -1.0, 0.0, 1.0),
    "nearest neighbours": (0.0, 0.3, 0.6, 0.9),
    "tree": (0.7, 1.0, 1.3, 1.6),
}
"""Exponents of ten of the one setting: learning rate, length, penalty, neighbours, leaves."""

LOOK = 10
"""Every so many steps it is asked whether a network has learned its digits."""


@dataclass(frozen=True)
class Few:
    """How many digits of how many pixels, and networks how many times as wide as the smallest.

    A network has learned them when its mean squared error on them is below ``fitted`` of the targets' mean square.
    """

    learned: int = 100
    tested: int = 500
    pixels: int = 14
    width: int = 1
    fitted: float = 1e-3


@dataclass(frozen=True)
class Data:
    """Digits and their classes as one-hot rows less a tenth."""

    X: Tensor
    Y: Tensor
    X_test: Tensor
    Y_test: Tensor


@remembered
def _pools(pixels: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Digits of 28 x 28 pixels or less, 2,000 to choose settings on and 3,000 that decide."""
    images, labels = read_images()
    images = F.avg_pool2d(images, 28 // pixels)
    deciding, choosing = stratified_split(labels, 2000)
    mean, std = images[choosing].mean(), images[choosing].std()
    parts = {"choosing": choosing, "deciding": deciding}
    return {name: ((images[rows] - mean) / std, labels[rows]) for name, rows in parts.items()}


def digits(pool: Literal["choosing", "deciding"], seed: int, few: Few = Few()) -> Data:
    """Random ones to learn and others to be tested on."""
    images, labels = _pools(few.pixels)[pool]
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[: few.learned + few.tested]
    X, Y = images[rows], F.one_hot(labels[rows], CLASSES).float() - 1 / CLASSES
    return Data(X[: few.learned], Y[: few.learned], X[few.learned :], Y[few.learned :])


def squared_errors(model: str, setting: float, data: Data, most: int, seed: int, few: Few = Few()) -> list[float]:
    """Squared error on the test digits: of networks during training, ``most`` steps long, of the others once."""
    if model in ("convolutional", "fully connected"):
        return _train(model, setting, data, most, seed, few)
    X, Y, X_test = data.X.flatten(1).double(), data.Y.double(), data.X_test.flatten(1).double()
    fits: dict[str, Callable[[], Tensor]] = {
        "kernel regression": lambda: kernel_hypothesis_posterior(X, Y, X_test, rbf_kernel(setting)).mean,
        "ridge": lambda: X_test @ X.T @ torch.linalg.solve(X @ X.T + setting * X.shape[1] * torch.eye(len(X)), Y),
        "nearest neighbours": lambda: Y[
            torch.cdist(X_test, X).topk(min(len(X), max(1, round(setting))), largest=False).indices
        ].mean(1),
        "tree": lambda: _tree(X, data.Y.argmax(1), X_test, max(2, round(setting))),
    }
    return [(fits[model]() - data.Y_test).square().mean().item()]


def _tree(X: Tensor, labels: Tensor, X_test: Tensor, leaves: int) -> Tensor:
    from sklearn.tree import DecisionTreeClassifier

    fitted = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0).fit(X.numpy(), labels.numpy())
    shares = torch.zeros(len(X_test), CLASSES, dtype=torch.float64)
    shares[:, torch.as_tensor(fitted.classes_)] = torch.as_tensor(fitted.predict_proba(X_test.numpy()))
    return shares - 1 / CLASSES


def recorded(steps: int) -> list[int]:
    """A dozen steps, evenly spread on a logarithmic axis, with the last."""
    return sorted({max(1, round(steps ** (i / 11))) for i in range(12)})


def _train(model: str, lr: float, data: Data, most: int, seed: int, few: Few) -> list[float]:
    """Adam on all digits, squared error, until they are fitted; errors at :func:`recorded` steps, which then stay.

    The last one is infinity where ``most`` steps don't do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _network(model, few.pixels, few.width)
    optimizer, found = torch.optim.Adam(net.parameters(), lr=lr), []
    shown, enough = recorded(most), few.fitted * data.Y.square().mean()
    fits = False

    def tested() -> float:
        with torch.no_grad():
            return F.mse_loss(net(data.X_test), data.Y_test).item()

    for step in range(1, most + 1):
        optimizer.zero_grad()
        loss = F.mse_loss(net(data.X), data.Y)
        if (step % LOOK == 0 or step == most) and bool(loss < enough):
            fits = True
            break
        loss.backward()
        optimizer.step()
        if step in shown:
            found.append(tested())
    if not fits:
        return [*found[:-1], math.inf]
    return found + [tested()] * (len(shown) - len(found))


def _network(model: str, pixels: int, width: int) -> nn.Module:
    if model == "fully connected":
        hidden = 256 * width
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels**2, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
    first, second = 12 * width, 24 * width
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Linear(9 * second, CLASSES),
    )  # fmt: skip
