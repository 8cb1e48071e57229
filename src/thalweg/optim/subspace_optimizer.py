"""Optimizers that run a rule in a subspace of each hidden matrix, and AdamW on the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from thalweg.optim.adamw import adam_direction
from thalweg.optim.block_order import active_blocks
from thalweg.optim.engine import Chain, ChainedOptimizer, Transform
from thalweg.optim.engine.optimizer import EngineOptions, Params
from thalweg.optim.engine.sharding import zeros_beside
from thalweg.optim.groups import hidden_matrices
from thalweg.optim.subspace import subspace_transform
from thalweg.optim.subspace_type import SubspaceType


class SubspaceOptimizer(ChainedOptimizer):
    """A chain for the matrices, whose first subspace may be made of blocks, and AdamW for the rest.

    Args:
        params: best a module; see :func:`subspace_groups`. Groups choose by ``rule="subspace"`` or ``"adamw"``.
        chain: for the matrices.
        lr, weight_decay: of the matrices.
        rest: AdamW's ``lr``, ``betas``, ``eps`` and ``weight_decay``.
        options: see :class:`~thalweg.optim.EngineOptions`.
    """

    def __init__(
        self,
        params: Params,
        chain: Chain | Transform,
        *,
        lr: float | Tensor,
        weight_decay: float,
        rest: dict[str, Any],
        **options: Any,
    ) -> None:
        rules = {"subspace": chain, "adamw": adam_direction(betas=rest["betas"], eps=rest["eps"])}
        groups = subspace_groups(params) if isinstance(params, nn.Module) else _groups_by_dimension(params)
        own = {"adamw": {"lr": rest["lr"], "weight_decay": rest["weight_decay"]}}
        super().__init__(groups, rules, lr=lr, weight_decay=weight_decay, rule_defaults=own, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see :meth:`~thalweg.optim.ChainedOptimizer.add_param_group`."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for kind, _, hypers in self._blocks(group):
                _active(kind, hypers, len(group["params"]), 0)
        except ValueError:
            self.param_groups.pop()
            raise

    def _look_at_group(self, group: dict[str, Any]) -> None:
        """Where subspaces are blocks: choose the matrices that are active, on calls 1, T+1, ... of each."""
        for kind, names, hypers in self._blocks(group):
            self._choose_blocks(group, self.rule_of(group), kind, names, hypers)

    def _blocks(self, group: dict[str, Any]) -> Iterator[tuple[SubspaceType, dict[str, str], dict[str, Any]]]:
        """Subspaces of blocks in a group's chain, their keys of state and their hyper-parameters."""
        chain = self.rule_of(group)
        for transform, keys in zip(chain, chain.state_names, strict=True):
            kind = transform.type
            if isinstance(kind, SubspaceType) and kind.plan.basis == "blocks":
                hypers = {name: group[transform.group_name(name)] for name, _ in transform.hypers}
                yield kind, dict(zip(kind.state, keys, strict=True)), hypers

    def _choose_blocks(
        self, group: dict[str, Any], chain: Chain, kind: SubspaceType, names: dict[str, str], hypers: dict[str, Any]
    ) -> None:
        if group.get("batched") or group.get("split"):
            raise ValueError("basis='blocks' takes whole parameters: leave batched and split out of the group")
        params = group["params"]
        chosen: dict[int, set[int]] = {}
        for place, param in enumerate(params):
            if param.grad is None:
                continue
            state = self.state[param]
            if not state:
                self._init_state(param, state, chain, group)
            done = int(state["step"])
            if done % hypers["update_every"] != 0:
                continue
            if done not in chosen:
                chosen[done] = _active(kind, hypers, len(params), done)
            _activate(param, state, kind, names, hypers, place in chosen[done])


def _active(kind: SubspaceType, hypers: dict[str, Any], count: int, done: int) -> set[int]:
    """Places of the matrices, of ``count`` in a group, that are active after so many steps."""
    draw = done // hypers["update_every"]
    return active_blocks(kind.plan.block_order, count, hypers["density"], draw, done + 1, hypers["seed"])


def _activate(
    param: Tensor,
    state: dict[str, Any],
    kind: SubspaceType,
    names: dict[str, str],
    hypers: dict[str, Any],
    active: bool,
) -> None:
    """Give a matrix the rule's state, as zeros, or take it away; what has it already keeps it."""
    if bool(state[names["active"]].shape[-1]) == active:
        return
    layout = kind.active_layout(param.shape[0], param.shape[1:].numel(), active, hypers)
    for name, (shape, dtype) in layout.items():
        state[names[name]] = zeros_beside(param, shape, dtype or state[names[name]].dtype)


def subspace_groups(model: nn.Module, exclude: tuple[str, ...] = ("embed", "head")) -> list[dict[str, Any]]:
    """Parameter groups that give a subspace to the hidden matrices and AdamW to the rest.

    Args:
        model: embeddings, the output heads (:func:`~thalweg.optim.hidden_matrices` says how they are told) and what is tied to either
            are left to AdamW.
        exclude: beginnings of words in names that also are.

    Returns:
        Up to three groups, with names: ``rule="subspace"``; ``rule="adamw"`` for the other matrices; and for biases, norm gains
        and scalars, without weight decay.

    Example:
        >>> from thalweg.optim import subspace_groups
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> [(group["rule"], [name for name, _ in group["params"]]) for group in subspace_groups(model)]
        [('subspace', ['0.weight', '1.weight']), ('adamw', ['2.weight']), ('adamw', ['0.bias', '1.bias', '2.bias'])]
    """
    hidden = hidden_matrices(model, exclude)
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [(n, p) for n, p in named if n in hidden], "rule": "subspace"},
        {"params": [(n, p) for n, p in named if n not in hidden and p.ndim >= 2], "rule": "adamw"},
        {"params": [(n, p) for n, p in named if p.ndim < 2], "rule": "adamw", "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _groups_by_dimension(params: Any) -> Any:
    """Groups as they were given, or bare (possibly named) parameters parted by their number of dimensions."""
    if isinstance(params, Tensor):
        return params  # the base class says what is wrong
    items = list(params)
    if items and isinstance(items[0], dict):
        return [dict(group) for group in items]

    def ndim(item: Any) -> int:
        return (item[1] if isinstance(item, tuple) else item).ndim

    groups = [
        {"params": [item for item in items if ndim(item) >= 2], "rule": "subspace"},
        {"params": [item for item in items if ndim(item) < 2], "rule": "adamw"},
    ]
    return [group for group in groups if group["params"]]


class Subspace(SubspaceOptimizer):
    r"""Any rule in a small subspace of each hidden matrix's gradients, and AdamW for the rest.

    .. math:: W \leftarrow (1 - \eta\lambda) W - \eta\, u, \qquad u \text{ as in } \texttt{subspace}

    GaLore, Fira, FRUGAL, Natural GaLore and DCT-AdamW are choices of these arguments under their own names.

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.subspace_groups`). Parameter groups choose by ``rule="subspace"`` or ``"adamw"``.
        rule: what runs in the subspace, such as ``lion_direction()``.
        lr: learning rate of the matrices (default 1e-3).
        weight_decay: decoupled decay of the matrices (default 0).
        rank, density, basis, residual, on_switch, update_every, scale, side: see :func:`thalweg.optim.subspace`. Beside its bases
            there is "blocks": a share ``density`` of each group's matrices are projected onto themselves and have state, the others
            have none. Those are residual as a whole, for which ``residual="scaled"`` has no ratio; ``side`` changes nothing.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (1e-3, (0.9, 0.999), 1e-8, 0).
        settings: further hyper-parameters of :func:`thalweg.optim.subspace`; ``block_order`` for blocks, as in
            :class:`~thalweg.optim.Frugal`; and :class:`~thalweg.optim.EngineOptions`.

    State: see :func:`thalweg.optim.subspace`; two tensors a parameter for the rest.

    Raises:
        ValueError: a choice or value out of range; a parameter below two dimensions, or a complex one, in a group with
            ``rule="subspace"``.

    Example:
        >>> import torch
        >>> from thalweg.optim import Subspace, lion_direction
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = Subspace(model, lion_direction(), lr=1e-4, rank=2, basis="columns", residual="sign")
        >>> model(torch.ones(4, 16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        rule: Chain | Transform,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        rank: int | None = None,
        density: float | None = None,
        basis: str = "svd",
        residual: str = "drop",
        on_switch: str = "keep",
        update_every: int = 200,
        scale: float = 1.0,
        side: str = "std",
        rest_lr: float = 1e-3,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        options = {name: settings.pop(name) for name in list(settings) if name in EngineOptions.__annotations__}
        if basis == "blocks" and density is None:
            raise ValueError("basis='blocks' needs density, the share of matrices that are active")
        chain = subspace_transform(
            rule, rank, density, basis, residual, on_switch,
            update_every=update_every, scale=scale, side=side, **settings,
        )  # fmt: skip
        rest = {"lr": rest_lr, "betas": rest_betas, "eps": rest_eps, "weight_decay": rest_weight_decay}
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, rest=rest, **options)
