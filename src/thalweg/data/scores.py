"""How hard each training example is, early in training: EL2N and GraNd (arXiv:2107.07075)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from thalweg.autodiff import FlatModel, batches, eval_mode, per_example_gradient_norms

LossFn = Callable[[Tensor, Tensor], Tensor]


def el2n_scores(model: nn.Module, data: Any, *, norm: Literal[1, 2] = 2) -> Tensor:
    r"""Length of each example's error vector, :math:`\lVert \mathrm{softmax}(f(x_i)) - \mathrm{onehot}(y_i) \rVert`.

    The model runs in evaluation mode, one forward pass over the data, and is left as it was.

    Args:
        model: a classifier; ``model(inputs)`` gives logits ``(B, C)``.
        data: a pair of tensors ``(X, y)``, a dataset, or a DataLoader that does not shuffle, without augmentation.
            Targets are class numbers ``(B,)``, or class probabilities ``(B, C)``.
        norm: 2 (the paper's) or 1.

    Returns:
        ``(N,)``, float32 or the model's better type, on the CPU; with ``norm=2`` between 0 (sure and right) and
        :math:`\sqrt 2` (sure and wrong).

    Raises:
        ValueError: the loader shuffles or drops examples, the outputs are not finite logits ``(B, C)``, or a label does
            not fit them.

    Example:
        >>> X, y = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
        >>> el2n_scores(nn.Identity(), (X, y))
        tensor([0.4243])
    """
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")
    scores = []
    with eval_mode(model), torch.no_grad():
        for inputs, targets in _ordered(data, model):
            logits = model(inputs)
            wanted = _probabilities(targets, logits)
            scores.append((_float(logits).softmax(-1) - wanted).norm(p=norm, dim=-1).cpu())
    return torch.cat(scores)


def grand_scores(
    model: nn.Module,
    data: Any,
    *,
    params: Iterable[str] | None = None,
    chunk_size: int = 64,
    loss_fn: LossFn = F.cross_entropy,
) -> Tensor:
    r"""Norm of each example's own gradient: :math:`\lVert \nabla_w\,\ell(f_w(x_i), y_i) \rVert_2`.

    For cross-entropy and one linear layer with bias it is EL2N times :math:`\sqrt{\lVert x \rVert^2 + 1}`. The model
    runs in evaluation mode and is left as it was, gradients included.

    Args:
        model: a classifier, as in :func:`el2n_scores`.
        data: as in :func:`el2n_scores`.
        params: names of the parameters to differentiate, e.g. the last layer's; ``None`` takes all that require
            gradients.
        chunk_size: examples differentiated at once; memory goes as ``chunk_size`` times the number of parameters.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch.

    Returns:
        ``(N,)`` on the CPU.

    Raises:
        ValueError: as in :func:`el2n_scores`; a name in ``params`` is unknown.

    Example:
        >>> from thalweg.data import el2n_scores, grand_scores
        >>> net = nn.Linear(2, 3)
        >>> X, y = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
        >>> torch.allclose(grand_scores(net, (X, y)), el2n_scores(net, (X, y)) * 26**0.5)
        True
    """
    flat = FlatModel(model, params=params)
    scores = []
    with eval_mode(model):
        for inputs, targets in _ordered(data, model):
            with torch.no_grad():
                _probabilities(targets, model(inputs))  # for its checks
            scores.append(per_example_gradient_norms(flat, loss_fn, inputs, targets, chunk_size=chunk_size).cpu())
    found = torch.cat(scores)
    if not bool(found.isfinite().all()):
        raise ValueError("a gradient is not finite: did the scoring run diverge? Train it with a lower learning rate")
    return found


class EnsembleScores(NamedTuple):
    """Scores of several runs: the ``mean`` ``(N,)`` and each one's own, ``per_run`` ``(runs, N)``, in float64.

    Example:
        >>> from thalweg.data import EnsembleScores
        >>> per_run = torch.tensor([[0.5, 1.0], [1.5, 1.0]], dtype=torch.float64)
        >>> scores = EnsembleScores(per_run.mean(0), per_run)
        >>> scores.mean.tolist()
        [1.0, 1.0]
    """

    mean: Tensor
    per_run: Tensor


def ensemble_scores(
    make_model: Callable[[], nn.Module],
    train: Callable[[nn.Module, torch.Generator], object],
    score: Callable[[nn.Module], Tensor],
    *,
    seeds: Iterable[int] = range(10),
) -> EnsembleScores:
    """Average a score over independent short trainings: the mean of the scores, not the score of a mean.

    Torch's global random state is as before afterwards.

    Args:
        make_model: builds a fresh model; called right after the global seed has been set.
        train: ``train(model, generator)``, a few epochs.
        score: ``score(model) -> (N,)``, e.g. :func:`el2n_scores` with the data filled in.
        seeds: one run each; the paper averages 10.

    Raises:
        ValueError: there is no seed.

    Example:
        >>> from thalweg.data import el2n_scores, ensemble_scores
        >>> X, y = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
        >>> score = lambda model: el2n_scores(model, (X, y))
        >>> runs = ensemble_scores(lambda: nn.Linear(2, 2), lambda model, generator: None, score, seeds=[0, 1])
        >>> runs.per_run.shape
        torch.Size([2, 6])
    """
    runs = [_one_run(make_model, train, score, seed) for seed in seeds]
    if not runs:
        raise ValueError("ensemble_scores needs at least one seed")
    per_run = torch.stack(runs)
    return EnsembleScores(per_run.mean(0), per_run)


def _one_run(make_model: Any, train: Any, score: Any, seed: int) -> Tensor:
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = make_model()
        train(model, torch.Generator().manual_seed(seed))
        return score(model).to("cpu", torch.float64)


def _ordered(data: Any, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in the order of the data set, on the model's device."""
    if isinstance(data, DataLoader):
        in_order = isinstance(data.sampler, SequentialSampler) and type(data.batch_sampler) is BatchSampler
        if not in_order or data.drop_last:
            raise ValueError(
                "scores need every example in order: pass a DataLoader with shuffle=False and drop_last=False"
            )
    device = next((p.device for p in model.parameters()), None)
    for inputs, targets in batches(data, 256):
        yield inputs.to(device), targets.to(device)


def _float(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _probabilities(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets as rows of probabilities, after checking that they and the logits are a classification problem's."""
    if logits.dim() != 2:
        raise ValueError(f"the score needs logits of shape (batch, classes), not {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError("a logit is not finite: did the scoring run diverge? Train it with a lower learning rate")
    classes = logits.shape[1]
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise ValueError(f"real targets must be probabilities {tuple(logits.shape)}, not {tuple(targets.shape)}")
        return _float(targets)
    if targets.dim() != 1 or int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise ValueError(f"labels must be class numbers from 0 to {classes - 1}, one an example")
    return F.one_hot(targets.long(), classes).to(_float(logits).dtype)
