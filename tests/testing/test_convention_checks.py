"""Each convention around the step, broken in one way, is found by its check, and by that check's own words."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from thalweg.testing import check_optimizer


class Careless(torch.optim.Optimizer):
    """Plain descent with weight decay and a step count, and one fault."""

    def __init__(self, params: Any, lr: Any = 0.05, weight_decay: float = 0.0, fault: str = "") -> None:
        self.fault, self.first_lr = fault, float(lr)
        if fault == "nothing is enough":
            params = params or [nn.Parameter(torch.ones(1))]
        if fault == "nameless":
            params = [p[1] if isinstance(p, tuple) else p for p in params]
        with warnings.catch_warnings():
            if fault == "silent about copies":
                warnings.simplefilter("ignore")
            super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        if fault == "unhooked":
            self.step = self._plain_step

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return self._plain_step(closure)

    @torch.no_grad()
    def _plain_step(self, closure: Any = None) -> None:
        first = self.param_groups[0]
        for group in self.param_groups:
            lr = float(self.first_lr if self.fault == "remembers lr" else group["lr"])
            if self.fault == "counts groups":
                lr /= len(self.param_groups)
            decay = (first if self.fault == "shares decay" else group)["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                if self.fault == "wants a whole step" and not isinstance(state["step"], int):
                    continue
                if self.fault == "one dtype":
                    p.data, p.grad = p.data.to(first["params"][0].dtype), None
                    continue
                if self.fault == "default dtype":
                    p.data = p.data.to(torch.get_default_dtype())
                if self.fault == "graph":
                    state["last"] = p.grad.clone().requires_grad_()
                p.mul_(1 - lr * decay).sub_(lr * p.grad.to(p.dtype))

    def add_param_group(self, param_group: Any) -> None:
        try:
            super().add_param_group(param_group)
        except (TypeError, ValueError):
            if self.fault != "takes any group":
                raise

    def load_state_dict(self, state_dict: Any) -> None:
        try:
            super().load_state_dict(state_dict)
        except ValueError:
            if self.fault != "loads anything":
                raise

    def state_dict(self) -> Any:
        saved = super().state_dict()
        if self.fault == "unhooked state":
            saved.pop("note", None)
        return saved

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none or self.fault == "always drops gradients")

    def __repr__(self) -> str:
        return "an optimizer" if self.fault == "prints nothing" else super().__repr__()


FAULTS = {
    "counts groups": ("parameter_forms", "parameters given as groups move otherwise than as a list"),
    "nothing is enough": ("wrong_parameters", "an empty list is accepted"),
    "takes any group": ("wrong_groups", "a list is accepted as a group"),
    "silent about copies": ("repeated_parameters", "a parameter given twice is taken twice without a word"),
    "nameless": ("parameter_names", "the state dict has the names []"),
    "loads anything": ("other_groups_in_a_state_dict", "a state dict of more parameters is accepted"),
    "wants a whole step": ("step_counts", "a step count saved as float goes on otherwise"),
    "unhooked state": ("state_dict_hooks", "what a state_dict hook returns is not used"),
    "unhooked": ("global_hooks", "hooks were called as []"),
    "always drops gradients": ("zero_grad", "zero_grad(set_to_none=False) replaces gradients"),
    "shares decay": ("weight_decay_of_groups", "one group's weight decay reaches another group"),
    "default dtype": ("default_dtype", "parameters took the default dtype"),
    "one dtype": ("mixed_dtypes", "a parameter in mixed company changed its dtype"),
    "graph": ("no_graph", "a state tensor needs gradients"),
    "remembers lr": ("tensor_lr_is_left_alone", "with a Tensor lr set to 0, parameters move on"),
    "prints nothing": ("printing", "the class isn't shown"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    check, message = FAULTS[fault]
    (without,) = check_optimizer(Careless, checks=[check], on_fail="return")
    assert without.status == "passed", without.message
    (outcome,) = check_optimizer(Careless, checks=[check], fault=fault, on_fail="return")
    assert (outcome.status, outcome.message) == ("failed", message)


def test_what_a_check_has_nothing_to_say_about() -> None:
    outcomes = check_optimizer(torch.optim.Rprop, checks=["weight_decay_of_groups"])
    assert [(o.status, o.message) for o in outcomes] == [("not applicable", "has no weight_decay")]
    outcomes = check_optimizer(torch.optim.SGD, checks=["step_counts"], momentum=0.9)
    assert [(o.status, o.message) for o in outcomes] == [("not applicable", "keeps no count named step")]
