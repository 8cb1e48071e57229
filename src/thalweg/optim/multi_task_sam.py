"""Sharpness-aware minimization for each of several tasks, its parts combined separately (arXiv:2211.13723)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.autodiff.closure import Closure
from thalweg.autodiff.replayed_draws import ReplayedDraws
from thalweg.autodiff.unchanged_buffers import unchanged_buffers
from thalweg.linalg.autocast import autocast_off
from thalweg.optim.adamw import AdamW
from thalweg.optim.engine.wrapping import Base, WrappedOptimizer
from thalweg.optim.sam import ascend_, ascent_scale, check_radius

Aggregator = Callable[[Tensor], Tensor]
Losses = Sequence[Callable[[], Tensor]] | Callable[[], Sequence[Tensor]]
Gradients = list[Tensor]


class MultiTaskStep(NamedTuple):
    """What one step saw, for m tasks.

    Args:
        losses: ``(m,)``, at the weights.
        perturbed_losses: ``(m,)``, each at its own task's worst point.
        gradient_cosines: ``(m, m)``, between the tasks' gradients by the shared weights; below 0 they conflict, and it is NaN
            where one is zero.
        flatness_cosines: ``(m, m)``, the same of the flatness parts.
    """

    losses: Tensor
    perturbed_losses: Tensor
    gradient_cosines: Tensor
    flatness_cosines: Tensor


def mean_gradient(gradients: Tensor) -> Tensor:
    """The mean of the rows: every task counts the same.

    Example:
        >>> from thalweg.optim import mean_gradient
        >>> mean_gradient(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        tensor([2., 1.])
    """
    return gradients.mean(0)


class MultiTaskSAM(WrappedOptimizer):
    r"""SAM for each of several tasks with shared weights, under any rule that combines gradients (arXiv:2211.13723).

    Task i, with gradients :math:`g_i` by the shared weights and :math:`a_i` by its head's, moves both to its own worst point:

    .. math::
        \epsilon_i = \rho\, \frac{(g_i, a_i)}{\|(g_i, a_i)\|}, \qquad
        f_i = \nabla_s L_i(s + \epsilon_i^s,\, h_i + \epsilon_i^h) - g_i, \qquad
        u = A(g_1, \dots, g_m) + A(f_1, \dots, f_m)

    The base steps with u for the shared weights, and with task i's gradient at its worst point for head i. Apart, loss parts and
    flatness parts are combined each by their own conflicts; for a linear A, as the mean, this is A of the SAM gradients.

    Costs two backward passes a task; memory 2 m gradients of the shared weights. Gradients are taken by ``torch.autograd.grad``,
    which DDP and FSDP don't see: one process only. Parts that are zero up to rounding (``rho = 0``) are averaged, since many
    aggregators divide by them.

    Args:
        shared: shared parameters, or a parameter group with settings of its own.
        heads: for each task its own parameters (may be empty), or such a group.
        aggregator: ``(m, P) -> (P,)``, rows the tasks' gradients: an aggregator of TorchJD, such as
            ``torchjd.aggregation.UPGrad()``, or any function; default :func:`mean_gradient`. Sums and means differ by a factor m, so
            tune ``lr`` for each.
        base: as for :class:`SAM`.
        lr: the base's learning rate (default 1e-3).
        rho: radius of the neighbourhood (default 0.05).
        adaptive: relative to each weight's size, as in ASAM.
        joint_norm: whether the norm is that of :math:`(g_i, a_i)`; otherwise shared weights and head are divided by their own.
        aggregate: ``"decomposed"`` as above; ``"direct"``: A of all :math:`g_i + f_i`; ``"loss_only_conflict"``: A of all
            :math:`g_i`, and the mean of all :math:`f_i`.
        weight_decay: the base's weight decay (default 0.01).
        model: its buffers (batch normalization) take part in the first forward pass of a step only; ``None``: closures see to it.
        settings: further settings of the base.

    Raises:
        ValueError: ``rho`` out of range; no task; a parameter in two places; complex parameters; in ``step``, not one loss for each
            task, a loss that isn't a scalar or doesn't depend on the shared weights, or an aggregator's output of another shape.

    Example:
        >>> import torch
        >>> from thalweg.optim import MultiTaskSAM
        >>> trunk, heads = torch.nn.Linear(4, 3), [torch.nn.Linear(3, 1) for _ in range(2)]
        >>> optimizer = MultiTaskSAM(trunk.parameters(), [head.parameters() for head in heads], rho=0.05)
        >>> x = torch.ones(8, 4)
        >>> def losses():
        ...     hidden = trunk(x)
        ...     return [head(hidden).square().mean() for head in heads]
        >>> optimizer.step(losses).losses.shape
        torch.Size([2])
    """

    def __init__(
        self,
        shared: Iterable[Tensor] | dict[str, Any],
        heads: Sequence[Iterable[Tensor] | dict[str, Any]],
        aggregator: Aggregator = mean_gradient,
        base: Base = AdamW,
        lr: float | Tensor = 1e-3,
        rho: float = 0.05,
        adaptive: bool = False,
        joint_norm: bool = True,
        aggregate: Literal["decomposed", "direct", "loss_only_conflict"] = "decomposed",
        weight_decay: float = 0.01,
        model: nn.Module | None = None,
        **settings: Any,
    ) -> None:
        if aggregate not in ("decomposed", "direct", "loss_only_conflict"):
            raise ValueError(
                f"unknown aggregate {aggregate!r} (choose from 'decomposed', 'direct', 'loss_only_conflict')"
            )
        groups = [_group(given) for given in (shared, *heads)]
        _check_places(groups)
        self._tasks = len(groups) - 1
        self._aggregator, self._aggregate, self._joint_norm, self._model = aggregator, aggregate, joint_norm, model
        filled = [group for group in groups if group["params"]]
        self._has_head = [bool(group["params"]) for group in groups[1:]]
        given = {"lr": lr, "weight_decay": weight_decay, **settings}
        super().__init__(filled, base, given, {"rho": rho, "adaptive": adaptive})

    def _check_group(self, group: Mapping[str, Any]) -> None:
        check_radius(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not after construction: tasks and heads are fixed."""
        if "base" in self.__dict__:
            raise ValueError("MultiTaskSAM's tasks are fixed: make a new optimizer with the new parameters")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closures: Losses | None = None) -> MultiTaskStep:  # type: ignore[override]
        """One step on one batch.

        Args:
            closures: one function a task that returns its loss with its graph, without ``backward``, or a
                :class:`~thalweg.autodiff.Closure` a task; or one function that returns all losses, so that the first pass shares
                the forward pass.
        """
        if closures is None:
            raise ValueError("MultiTaskSAM needs the tasks' losses: call step([closure, ...])")
        draws = ReplayedDraws(p.device for group in self.param_groups for p in group["params"])
        losses, gradients = self._at_the_weights(closures, draws)
        perturbed, sharp = zip(
            *(self._at_the_worst_point(closures, i, gradients[i], draws) for i in range(self._tasks)), strict=True
        )
        size = len(self._shared)
        rows = torch.stack([_flat(own[:size]) for own in gradients])
        flatness = torch.stack([_flat(own[:size]) for own in sharp]) - rows
        with autocast_off([rows]):
            self._set_gradients(self._combined(rows, flatness), [own[size:] for own in sharp])
            self._step_base()
            return MultiTaskStep(losses, torch.stack(perturbed), _cosines(rows), _cosines(flatness))

    @property
    def _shared(self) -> list[Tensor]:
        return list(self.param_groups[0]["params"])

    def _params(self, task: int) -> list[Tensor]:
        """The shared parameters and the task's own, as they are now: copies of the optimizer have copies of them."""
        return [*self._shared, *self._head(task)]

    def _head(self, task: int) -> list[Tensor]:
        place = 1 + sum(self._has_head[:task])
        return list(self.param_groups[place]["params"]) if self._has_head[task] else []

    def _at_the_weights(self, closures: Losses, draws: ReplayedDraws) -> tuple[Tensor, list[Gradients]]:
        """Losses, and gradients by shared and own parameters, at the weights as they are."""
        if callable(closures):
            with torch.enable_grad():
                losses = list(closures())
            self._check_count(len(losses))
            found = [self._gradients(loss, i, retain=i < len(losses) - 1) for i, loss in enumerate(losses)]
            return torch.stack([loss.detach() for loss in losses]), found
        self._check_count(len(closures))
        losses, found = [], []
        for i in range(self._tasks):
            with self._silently(closures, i, draws) if i else nullcontext():
                loss = self._loss(closures, i)
                found.append(self._gradients(loss, i))
            losses.append(loss.detach())
        return torch.stack(losses), found

    def _at_the_worst_point(
        self, closures: Losses, task: int, gradients: Gradients, draws: ReplayedDraws
    ) -> tuple[Tensor, Gradients]:
        """A task's loss and gradients where its own loss is largest nearby; the weights come back bit by bit."""
        params = self._params(task)
        saved = [p.clone() for p in params]
        self._ascend(task, gradients)
        try:
            with self._silently(closures, task, draws):
                loss = self._loss(closures, task)
                return loss.detach(), self._gradients(loss, task)
        finally:
            for p, weight in zip(params, saved, strict=True):
                p.copy_(weight)

    def _ascend(self, task: int, gradients: Gradients) -> None:
        size = len(self._shared)
        parts = [(self._shared, gradients[:size]), (self._head(task), gradients[size:])]
        if self._joint_norm:
            parts = [(self._params(task), gradients)]
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        for params, own in parts:
            adaptive = [bool(groups[id(p)]["adaptive"]) for p in params]
            scale = ascent_scale(params, own, adaptive)
            for p, g, scaled in zip(params, own, adaptive, strict=True):
                group = groups[id(p)]
                ascend_(p, g, (-1 if group.get("maximize") else 1) * float(group["rho"]) * scale, scaled)

    def _loss(self, closures: Losses, task: int) -> Tensor:
        with torch.enable_grad():
            if callable(closures):
                return closures()[task]
            own = closures[task]
            return own.loss() if isinstance(own, Closure) else own()

    def _gradients(self, loss: Tensor, task: int, retain: bool = False) -> Gradients:
        if loss.numel() != 1 or not loss.requires_grad:
            raise ValueError(f"the loss of task {task} must be a scalar with its graph: return it without backward()")
        params = self._params(task)
        found = torch.autograd.grad(loss, params, retain_graph=retain, allow_unused=True)
        if all(g is None for g in found[: len(self._shared)]):
            raise ValueError(f"the loss of task {task} doesn't depend on the shared parameters")
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]

    @contextmanager
    def _silently(self, closures: Losses, task: int, draws: ReplayedDraws) -> Iterator[None]:
        """A further forward pass: the same masks, and no trace in buffers."""
        own = None if callable(closures) else closures[task]
        model = own.model if isinstance(own, Closure) else self._model
        with draws.again(), unchanged_buffers(model) if model is not None else nullcontext():
            yield

    def _combined(self, gradients: Tensor, flatness: Tensor) -> Tensor:
        if self._aggregate == "direct":
            return self._row(gradients + flatness)
        negligible = flatness.norm() <= torch.finfo(flatness.dtype).eps * gradients.norm()
        if self._aggregate == "loss_only_conflict" or negligible:
            return self._row(gradients) + flatness.mean(0)
        return self._row(gradients) + self._row(flatness)

    def _row(self, rows: Tensor) -> Tensor:
        if not bool(rows.any()):
            return rows[0]
        row = self._aggregator(rows)
        if row.shape != rows.shape[1:]:
            raise ValueError(
                f"the aggregator must make {tuple(rows.shape[1:])} of {tuple(rows.shape)}, not {tuple(row.shape)}"
            )
        return row

    def _set_gradients(self, row: Tensor, heads: Sequence[Gradients]) -> None:
        pieces = row.split([p.numel() for p in self._shared])
        for p, piece in zip(self._shared, pieces, strict=True):
            p.grad = piece.view_as(p).to(p.dtype).clone()
        for task, own in enumerate(heads):
            for p, g in zip(self._head(task), own, strict=True):
                p.grad = g

    def _check_count(self, count: int) -> None:
        if count != self._tasks:
            raise ValueError(f"{count} losses for {self._tasks} tasks: give one for each head")

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_tasks", "_aggregator", "_aggregate", "_joint_norm", "_model", "_has_head")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in kept}}


def _group(given: Iterable[Tensor] | dict[str, Any]) -> dict[str, Any]:
    group = dict(given) if isinstance(given, dict) else {"params": given}
    group["params"] = [p for p in group["params"] if p.requires_grad]
    return group


def _check_places(groups: Sequence[dict[str, Any]]) -> None:
    if len(groups) < 2:
        raise ValueError("heads must name at least one task; give [] for a task without parameters of its own")
    if not groups[0]["params"]:
        raise ValueError("shared holds no trainable parameter")
    seen: set[int] = set()
    for group in groups:
        for p in group["params"]:
            if id(p) in seen:
                raise ValueError(
                    f"the parameter of shape {tuple(p.shape)} is in two places: shared weights and heads must differ"
                )
            if p.is_complex():
                raise ValueError(f"MultiTaskSAM can't take the complex parameter of shape {tuple(p.shape)}")
            seen.add(id(p))


def _flat(gradients: Gradients) -> Tensor:
    return torch.cat([g.reshape(-1) for g in gradients])


def _cosines(rows: Tensor) -> Tensor:
    units = rows / rows.norm(dim=1, keepdim=True)
    return units @ units.T
