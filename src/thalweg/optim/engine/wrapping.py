"""Optimizers that decide where gradients are taken, and leave the step to another optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from thalweg.optim.engine.optimizer import Chained, ChainedOptimizer, Params
from thalweg.optim.engine.transform import Chain, Transform
from thalweg.registry import lookup

Base = str | Transform | Chain | Callable[..., torch.optim.Optimizer]
"""A registered name such as ``"lion"``, a chain of transforms, an optimizer class, or a function ``(params, **settings) ->
Optimizer``."""


class WrappedOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` around another one, with which it shares parameter groups and state.

    The state dict is the base's, whose groups hold the wrapper's hyper-parameters too, so that either loads the other's; a
    scheduler may be put on either.

    Args:
        params: what the base takes; a module also for bases that take no module (biases and norm gains then aren't decayed).
        base: what makes the steps; it is built here, over the same parameters.
        settings: the base's settings; those that are None, and ``weight_decay=0`` for a base without, are left out.
        own: the wrapper's hyper-parameters, with defaults for the groups that don't say.

    Raises:
        ValueError: a base that evaluates closures by itself, or an unknown name.
    """

    needs_closure: ClassVar[bool] = True
    base: torch.optim.Optimizer

    def __init__(self, params: Params, base: Base, settings: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        make: Any
        if isinstance(base, Transform | Chain):
            make = partial(Chained, chain=base)
        else:
            make = lookup(base, "optim").target if isinstance(base, str) else base
        if _evaluates_closures(make):
            raise self._refusal(make)
        if isinstance(params, nn.Module) and not (isinstance(make, type) and issubclass(make, ChainedOptimizer)):
            params = ChainedOptimizer.groups_for(params)
        made = make(params, **_accepted(make, settings))
        if _evaluates_closures(type(made)):
            raise self._refusal(type(made))
        state = made.state
        super().__init__(list(made.param_groups), dict(own))
        self.base, self.state, self._own = made, state, dict(own)
        self.defaults = {**made.defaults, **own}
        self._join()

    def _refusal(self, cls: Any) -> ValueError:
        return ValueError(f"{type(self).__name__} can't wrap {cls.__name__}, which evaluates closures by itself")

    def _join(self) -> None:
        """One list of groups and one state; whoever replaced them, replaced them here."""
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; keys that it lacks take the defaults."""
        if "base" not in self.__dict__:  # under construction: the base has the group already
            self._check_group({**self.defaults, **param_group})
            super().add_param_group(param_group)
            return
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        self._check_group({**self._own, **param_group})
        self._join()
        self.base.add_param_group({**self._own, **param_group})

    def _check_group(self, group: Mapping[str, Any]) -> None:
        """Raise if a group's value for one of the wrapper's hyper-parameters is out of range."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the base loads it; groups saved without the wrapper keep the wrapper's hyper-parameters."""
        for prepare in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = prepare(self, state_dict) or state_dict
        kept = [{key: group[key] for key in self._own} for group in self.param_groups]
        self._join()
        self.base.load_state_dict(state_dict)
        for group, own in zip(self.base.param_groups, kept, strict=True):
            for key, value in own.items():
                group.setdefault(key, value)
        self.param_groups, self.state = self.base.param_groups, self.base.state
        for finish in self._optimizer_load_state_dict_post_hooks.values():
            finish(self)

    def _step_base(self) -> None:
        self._join()
        self.base.step()

    def __getstate__(self) -> dict[str, Any]:
        self._join()
        return {**super().__getstate__(), "base": self.base, "_own": self._own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join()

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.base!r}"


def _evaluates_closures(make: Any) -> bool:
    return bool(getattr(make, "needs_closure", False)) or (
        isinstance(make, type) and issubclass(make, torch.optim.LBFGS)
    )


def _accepted(make: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in settings.items() if value is not None}
    known = inspect.signature(make).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    if given.get("weight_decay") == 0 and "weight_decay" not in known and not takes_any:
        del given["weight_decay"]
    return given
