"""Looking at what a layerwise transform sees, without taking the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from thalweg.optim.engine.optimizer import ChainedOptimizer
from thalweg.optim.engine.transform import Chain, Transform, TransformType

_T = TypeVar("_T")
Look = Callable[[Any, dict[str, Any]], _T]


def watch(optimizer: ChainedOptimizer, looks: Mapping[TransformType, Look[_T]]) -> dict[str, _T]:
    """What ``look(sums, keywords)`` makes of the sums that a layerwise transform would get if ``step()`` were called now.

    The step is taken by a copy, so that there are two of the parameters and of the state for a moment. Under sharding every process
    must take part.

    Args:
        optimizer: it is not changed.
        looks: by transform, what to make of the sums (None where it is switched off) and of the keyword arguments it is called with.

    Returns:
        By parameter name (or number, counted over all groups), for parameters with a gradient whose rule has such a transform.

    Raises:
        ValueError: no rule of the optimizer has such a transform.
    """
    if not any(transform.type in looks for chain in optimizer.rules.values() for transform in chain):
        wanted = " or ".join(kind.__name__ for kind in looks)
        raise ValueError(f"{type(optimizer).__name__} has no {wanted} in its chain")
    found: dict[int, _T] = {}
    rules: list[Chain] = []
    names: list[str] = []
    for group in optimizer.param_groups:
        numbers = range(len(rules), len(rules) + len(group["params"]))
        names += group.get("param_names") or map(str, numbers)
        rules += [_watched(number, optimizer.rule_of(group), looks, found) for number in numbers]
    _twin(optimizer, rules).step()
    return {name: found[number] for number, name in enumerate(names) if number in found}


def _watched(number: int, chain: Chain, looks: Mapping[TransformType, Look[_T]], found: dict[int, _T]) -> Chain:
    """The same chain, whose transforms of those types write down what they see."""

    def watched(transform: Transform) -> Transform:
        kind = transform.type
        if kind not in looks:
            return transform
        update, look = kind.update, looks[kind]

        def record(u: Tensor, param: Tensor, state: Any, sums: Any, **keywords: Any) -> Any:
            found[number] = look(sums, keywords)
            return update(u, param, state, sums, **keywords)

        copy = object.__new__(TransformType)
        copy.__dict__.update({**kind.__dict__, "update": record})
        return Transform(copy, transform.hypers, transform.names)

    return Chain(tuple(watched(transform) for transform in chain))


def _twin(optimizer: ChainedOptimizer, rules: Sequence[Chain]) -> ChainedOptimizer:
    """An optimizer over copies of all parameters, each in a group of its own that follows its own rule."""
    groups: list[dict[str, Any]] = []
    pairs: list[tuple[Tensor, nn.Parameter]] = []
    for group in optimizer.param_groups:
        hypers = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for param in group["params"]:
            clone = nn.Parameter(param.detach().clone(), param.requires_grad)
            clone.grad = param.grad
            groups.append({**hypers, "params": [clone], "rule": str(len(groups))})
            pairs.append((param, clone))
    settings = {**asdict(optimizer._settings), "nonfinite": "propagate", "compile": False}
    twin = ChainedOptimizer(groups, {str(i): rule for i, rule in enumerate(rules)}, lr=0.0, **settings)
    for param, clone in pairs:
        state = optimizer.state.get(param, {})
        twin.state[clone] = {key: v.clone() if torch.is_tensor(v) else v for key, v in state.items()}
    return twin
