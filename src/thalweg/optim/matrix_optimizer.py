"""A rule for hidden matrices, and AdamW for everything else: what Muon and its relatives share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine import Chain, ChainedOptimizer, Transform
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.groups import hidden_matrices


class MatrixOptimizer(ChainedOptimizer):
    """An optimizer with a rule for hidden matrices, named like itself, and the rule "adamw" for the rest.

    Args:
        params: a module (see :func:`muon_groups`), parameter groups, or parameters, which are parted by their number of dimensions.
        name: of the rule for matrices.
        chain: that rule.
        lr, weight_decay: learning rate and decoupled decay of the matrices.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings.
        options: see :class:`~thalweg.optim.EngineOptions`.
    """

    def __init__(
        self,
        params: Params,
        name: str,
        chain: Chain | Transform,
        *,
        lr: float | Tensor,
        weight_decay: float,
        rest_lr: float,
        rest_betas: tuple[float, float],
        rest_eps: float,
        rest_weight_decay: float,
        **options: Any,
    ) -> None:
        rules = {name: chain, "adamw": adam_direction(betas=rest_betas, eps=rest_eps)}
        groups = muon_groups(params, rule=name) if isinstance(params, nn.Module) else _by_dimension(params, name)
        rest = {"adamw": {"lr": rest_lr, "weight_decay": rest_weight_decay}}
        super().__init__(groups, rules, lr=lr, weight_decay=weight_decay, rule_defaults=rest, **options)


def muon_groups(
    model: nn.Module,
    exclude: tuple[str, ...] = ("embed", "head"),
    split: Mapping[str, int] | None = None,
    rule: str = "muon",
) -> list[dict[str, Any]]:
    """Parameter groups that give Muon, or a relative of it, the hidden matrices and AdamW the rest.

    Stacked experts, (experts, out, in), are told from convolutions by their module: its attribute ``stacked_matrices`` names such
    parameters, as that of :class:`thalweg.nn.StackedExperts` does. They get groups with ``batched=True``.

    Args:
        model: embeddings (``nn.Embedding`` and ``nn.EmbeddingBag``), the output heads (:func:`~thalweg.optim.hidden_matrices` says
            how they are told) and what is tied to either are left to AdamW.
        exclude: beginnings of words in names that also are.
        split: fused matrices by a pattern that is searched in their names, and the number of equal parts, one on top of the other,
            that each is made of: ``{"qkv": 3, "in_proj_weight": 3}``. The parts are treated as matrices of their own. Where parts
            differ in height (grouped queries), give a number that divides all of them.
        rule: name of the rule for matrices: "muon", "normuon", "auon", "hybrid_auon".

    Returns:
        Groups with names: of ``rule``, those to be split and stacks apart; ``rule="adamw"`` for the other matrices; and for biases,
        norm gains and scalars, without weight decay.

    Raises:
        ValueError: a pattern of ``split`` that no hidden matrix has in its name.

    Example:
        >>> from torch import nn
        >>> from thalweg.optim import muon_groups
        >>> layer = nn.TransformerEncoderLayer(8, 2, 32)
        >>> for group in muon_groups(nn.Sequential(layer, nn.Linear(8, 3)), split={"in_proj": 3})[:2]:
        ...     print(group["rule"], group.get("split"), [name for name, _ in group["params"]])
        muon None ['0.self_attn.out_proj.weight', '0.linear1.weight', '0.linear2.weight']
        muon 3 ['0.self_attn.in_proj_weight']
    """
    hidden = hidden_matrices(model, exclude)
    stacks = hidden & _stacks(model)
    parts = _parts(hidden - stacks, split or {})
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [(n, p) for n, p in named if n in hidden and n not in parts and n not in stacks]},
        {"params": [(n, p) for n, p in named if n in stacks], "batched": True},
    ]
    groups += [
        {"params": [(n, p) for n, p in named if parts.get(n) == count], "split": count}
        for count in sorted(set(parts.values()))
    ]
    groups = [{**group, "rule": rule} for group in groups]
    groups += [
        {"params": [(n, p) for n, p in named if n not in hidden and p.ndim >= 2], "rule": "adamw"},
        {"params": [(n, p) for n, p in named if p.ndim < 2], "rule": "adamw", "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _stacks(model: nn.Module) -> set[str]:
    """Names of the parameters that modules declare as stacks of matrices."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "stacked_matrices", ())
    }


def _parts(names: set[str], split: Mapping[str, int]) -> dict[str, int]:
    """The number of parts of those matrices that are to be split."""
    found: dict[str, int] = {}
    for pattern, count in split.items():
        fused = [name for name in names if re.search(pattern, name)]
        if not fused:
            raise ValueError(f"split: no hidden matrix has {pattern!r} in its name")
        found |= dict.fromkeys(fused, count)
    return found


def _by_dimension(params: Any, rule: str) -> Any:
    """Groups as they were given, or bare (possibly named) parameters parted by their number of dimensions."""
    if isinstance(params, Tensor):
        return params  # the base class says what is wrong
    items = list(params)
    if items and isinstance(items[0], dict):
        return [dict(group) for group in items]

    def ndim(item: Any) -> int:
        return (item[1] if isinstance(item, tuple) else item).ndim

    groups = [
        {"params": [item for item in items if ndim(item) >= 2], "rule": rule},
        {"params": [item for item in items if ndim(item) < 2], "rule": "adamw"},
    ]
    return [group for group in groups if group["params"]]
