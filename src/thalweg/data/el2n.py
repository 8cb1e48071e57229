"""Train on the hard examples: EL2N pruning from a few short runs (arXiv:2107.07075)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from thalweg.data.prune import prune_by_score
from thalweg.data.scores import el2n_scores, ensemble_scores
from thalweg.registry import method


@method("el2n", search={"keep": ("linear", 0.4, 0.8), "offset": ("linear", 0.0, 0.2)})
def el2n(
    dataset: Dataset[Any],
    make_model: Callable[[], nn.Module],
    generator: torch.Generator | None = None,
    *,
    keep: float | int = 0.5,
    offset: float | int = 0,
    runs: int = 3,
    epochs: int = 2,
    lr: float = 0.05,
    batch_size: int = 64,
) -> SubsetRandomSampler:
    """A sampler over the examples that short trainings find hard.

    ``runs`` fresh models are trained for ``epochs`` each, every example gets its mean EL2N score, and
    :func:`prune_by_score` keeps a part. The sampler passes over the kept examples in a new random order each time.
    Scoring costs ``runs * epochs`` passes over the data before training starts. All randomness comes from
    ``generator``: the same one gives the same indices in the same order.

    Args:
        dataset: map-style, ``(inputs, class number)`` pairs without augmentation.
        make_model: builds a fresh classifier with logits ``(B, C)``, on the device on which to train it.
        generator: source of randomness; ``None`` seeds one from torch's global state.
        keep: part or number of examples to keep.
        offset: part or number of the highest scores to leave out; a little above the share of wrong labels.
        runs: trainings to average over. The paper uses 10; 3 keep a race short.
        epochs: epochs of each. The paper scores after 10 to 20 of 200; on small problems 2 do.
        lr: learning rate of the scoring runs: SGD, Nesterov momentum 0.9, weight decay 5e-4, cross-entropy.
        batch_size: batch size of the scoring runs.

    Returns:
        A sampler of ``round(keep * N)`` indices a pass.

    Raises:
        ValueError: the data are not a classification problem, or a scoring run diverged (its logits are not finite).

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.randn(20, 4), torch.arange(20) % 2)
        >>> sampler = el2n(data, lambda: nn.Linear(4, 2), torch.Generator().manual_seed(0), keep=0.25)
        >>> len(list(sampler))
        5
    """
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))

    def train(model: nn.Module, shuffle: torch.Generator) -> None:
        # A last batch of a single example would stop a BatchNorm model, so whole batches only.
        whole = len(dataset) > batch_size  # type: ignore[arg-type]
        loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=whole, generator=shuffle)
        train_briefly(model, loader, epochs=epochs, lr=lr)

    def score(model: nn.Module) -> Tensor:
        return el2n_scores(model, DataLoader(dataset, 256))

    seeds = torch.randint(2**31, (runs,), generator=generator).tolist()
    scores = ensemble_scores(make_model, train, score, seeds=seeds).mean
    return SubsetRandomSampler(prune_by_score(scores, keep, offset=offset).tolist(), generator=generator)


def train_briefly(model: nn.Module, loader: DataLoader[Any], *, epochs: int, lr: float) -> None:
    """The scoring recipe: SGD at a constant rate with Nesterov momentum 0.9, weight decay 5e-4 and cross-entropy.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> data = [(torch.randn(2), 0), (torch.randn(2), 1)]
        >>> train_briefly(net, DataLoader(data, batch_size=2), epochs=1, lr=0.1)
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model.train()
    for _ in range(epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs.to(device)), targets.to(device)).backward()
            optimizer.step()
