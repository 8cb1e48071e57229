"""The rule that runs inside a subspace: its steps on projected matrices, and which rules make sense there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import Chain
from thalweg.optim.engine.passes import bind


def run_rule(
    rule: Chain, x: Tensor, state: dict[str, Tensor], step: int, hypers: Mapping[str, Any], param: Any = None
) -> Tensor:
    """The rule's update; ``state`` gets its new state."""
    bound, values = bind(rule, {"lr": 0.0, "weight_decay": 0.0, **hypers}, step)
    for transform in bound:
        kind = transform.type
        own = {name: state[key] for name, key in zip(kind.state, transform.state_keys, strict=True)}
        keywords = transform.keywords(values)
        if kind.kind == "elementwise":
            x = kind.update(x, x if param is None else param, own, **keywords)
        else:
            done = kind.update(x, own, **keywords) if kind.state else kind.update(x, **keywords)
            done = done[0] * done[1] if isinstance(done, tuple) else done
            x = done.to(x.dtype)  # Newton-Schulz steps may leave bfloat16
        state.update({key: own[name] for name, key in zip(kind.state, transform.state_keys, strict=True)})
    return x


def check_rule(rule: Chain) -> None:
    """Raise a :class:`ValueError` for a rule that makes no sense in a subspace."""
    taken = {"basis", "left_basis", "columns", "active", "residual_norm", "error"}
    for transform, keys in zip(rule, rule.state_names, strict=True):
        kind = transform.type
        outside = kind.needs & {"lr", "normal", "rows", "gradient_norm"}
        if kind.kind == "layerwise" or outside or taken & set(keys):
            why = (
                "norms over whole tensors"
                if kind.kind == "layerwise"
                else ", ".join(sorted(outside or taken & set(keys)))
            )
            raise ValueError(f"{kind.__name__} can't run in a subspace: it needs {why}; put it before or after")
        one = Chain((transform,))
        state = {}
        for name, key in zip(kind.state, one.state_names[0], strict=True):
            declared = kind.matrix_state.get(name, lambda m, n, **_: (m, n))
            of, dtype = declared if isinstance(declared, tuple) else (declared, None)
            state[key] = torch.zeros(1, *of(2, 2, **dict(transform.hypers)), dtype=dtype)
        weights = torch.full((1, 2, 2), math.nan)
        if run_rule(one, torch.ones(1, 2, 2), state, 1, dict(one.hypers), weights).isnan().any():
            raise ValueError(f"{kind.__name__} can't run in a subspace: it needs the weights; put it before or after")
