"""The public checks: every rule of ours passes them all, and each of them can fail."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.testing import check_optimizer

_spec = importlib.util.spec_from_file_location("rules", Path(__file__).parents[1] / "optim" / "conftest.py")
assert _spec is not None and _spec.loader is not None
rules = importlib.util.module_from_spec(_spec)
__import__("sys").modules["rules"] = rules
_spec.loader.exec_module(rules)

TORCH = {
    "Adam": (torch.optim.Adam, {"lr": 0.05}, {"loading_copies"}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.05}, {"loading_copies"}),
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}, {"loading_copies", "bad_settings"}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.05}, {"loading_copies"}),
}
"""torch's own, with the checks that they fail: loading shares tensors with the given dict; SGD takes ``lr=nan``."""


@pytest.mark.parametrize("name", rules.RULES)
def test_ours_pass(name: str) -> None:
    rule = rules.RULES[name]
    shapes = rules.MATRICES if rule.matrices_only else rules.MIXED
    outcomes = check_optimizer(rule.make, shapes=shapes, on_fail="return")
    assert [f"{o.check}: {o.message}" for o in outcomes if o.status == "failed"] == []


@pytest.mark.parametrize("name", TORCH)
def test_the_checks_are_not_made_to_measure(name: str) -> None:
    cls, given_settings, failing = TORCH[name]
    outcomes = check_optimizer(cls, on_fail="return", **given_settings)
    assert {o.check for o in outcomes if o.status == "failed"} == failing


@settings(max_examples=6, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=2, max_size=5))
def test_any_shapes(shapes: list[tuple[int, ...]]) -> None:
    from thalweg.optim import AdamW, Lamb, Muon

    for cls in (AdamW, Lamb, Muon):
        check_optimizer(cls, shapes=shapes, checks=["resumes_bit_by_bit", "layouts", "copies"])


class Broken(torch.optim.Optimizer):
    """Plain descent with one fault."""

    def __init__(self, params, lr=0.05, fault=""):
        self.fault, self.count = fault, 0
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            if self.fault == "closure":
                loss = closure().detach() * 0
            else:
                with torch.enable_grad():
                    loss = closure()
        self.count += 1
        for group in self.param_groups:
            lr = float(group["lr"]) if self.fault != "groups" else float(self.param_groups[-1]["lr"])
            for p in group["params"]:
                if p.grad is None:
                    if self.fault == "missing":
                        p.sub_(1.0)
                    continue
                g = p.grad.to_dense() if p.grad.is_sparse else p.grad
                if self.fault == "gradient":
                    p.grad.mul_(0.5)
                if self.fault == "clipping":
                    p.grad.clamp_(-1, 1)  # the second time there is nothing left to clip
                if self.fault == "dtype":
                    p.data = p.data.float()
                if self.fault == "up":
                    g = -g
                if self.fault == "zero":
                    g = g / g.norm()
                if self.fault == "nan":
                    g = g.nan_to_num()
                if self.fault == "hidden":
                    g = g / self.count
                if self.fault == "layout":
                    g = g.t().reshape(g.shape) if g.ndim == 2 and not g.is_contiguous() else g
                if self.fault == "state":
                    self.state[p]["object"] = object()
                if self.fault == "random":
                    g = g + random.random()
                if self.fault == "scalar" and p.ndim == 0:
                    continue
                if self.fault == "graph":
                    self.state[p]["grad"] = torch.ones_like(p).requires_grad_()
                if self.fault == "default dtype":
                    p.data = p.data.to(torch.get_default_dtype())
                if self.fault == "frozen":
                    self.state[p] = {"x": torch.zeros(1)}
                p.sub_(lr * g)
        return loss


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("closure", "closure"),
        ("groups", "learning_rate_of_groups"),
        ("missing", "missing_gradients"),
        ("gradient", "gradients_are_not_changed"),
        ("clipping", "gradients_are_not_changed"),
        ("dtype", "dtypes"),
        ("up", "goes_down_on_a_quadratic"),
        ("zero", "zero_gradients"),
        ("hidden", "nothing_kept_outside_state"),
        ("layout", "layouts"),
        ("state", "state_is_plain"),
        ("random", "is_deterministic"),
        ("scalar", "scalars"),
        ("graph", "no_graph"),
        ("default dtype", "default_dtype"),
    ],
)
def test_a_fault_is_found(fault: str, check: str) -> None:
    check_optimizer(Broken, checks=[check])  # the same without the fault
    with pytest.raises(AssertionError, match=f"^Broken: {check}: "):
        check_optimizer(Broken, checks=[check], fault=fault)


def test_ways_to_fail() -> None:
    (outcome,) = check_optimizer(Broken, checks=["maximize"])
    assert outcome.status == "not applicable" and outcome.message == "takes no maximize"
    (outcome,) = check_optimizer(Broken, checks=["scalars"], fault="scalar", on_fail="return")
    assert outcome.status == "failed" and outcome.expectation == "A 0-d parameter moves and keeps its shape."
    with pytest.warns(UserWarning, match="^Broken: scalars: 1.5 became "):
        check_optimizer(Broken, checks=["scalars"], fault="scalar", on_fail="warn")
    with pytest.raises(ValueError, match=r"^unknown check 'scalar'; did you mean 'scalars'\?"):
        check_optimizer(Broken, skip=["scalar"])
    with pytest.raises(ValueError, match=r"^on_fail must be"):
        check_optimizer(Broken, on_fail="ignore")
    assert check_optimizer(Broken, checks=["scalars"], skip=["scalars"]) == []
