"""Optimizers that need more than gradients, in a race."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from thalweg import registry
from thalweg.autodiff import Closure
from thalweg.race import recipe as recipes
from thalweg.race.job import Conditions, Job
from thalweg.race.trial import train

recipes.load_methods()
CPU = Conditions(steps=12, eval_every=3, device="cpu")


def run(task, recipe: str, conditions: Conditions = CPU, **settings):
    return train(task, Job(recipe, "fresh", 0, 1, settings), conditions)


class Counting(torch.optim.SGD):
    """SGD that looks at the loss twice a step, with and without its own backward."""

    needs_closure = True
    seen: list[Closure]

    def __init__(self, model, lr: float = 0.1) -> None:
        super().__init__(model.parameters(), lr=lr)

    def step(self, closure):
        type(self).seen.append(closure)
        with torch.enable_grad():
            assert closure.loss(closure.outputs()).requires_grad
        return super().step(closure)


@pytest.fixture
def counting(monkeypatch) -> type[Counting]:
    Counting.seen = []
    monkeypatch.setitem(registry._METHODS, "counting", registry.Method("counting", "optim", Counting, {}))
    return Counting


def test_it_gets_the_batch_of_every_step_and_trains_as_without(tiny, counting) -> None:
    same = run(tiny, "sgd(momentum=0.0)", lr=0.1, weight_decay=0.0)
    result = run(tiny, "counting(lr=0.1)")
    assert (result.outcome, result.message) == ("finished", "")
    assert len(counting.seen) == 12 + 2  # two steps to warm up
    assert all(c.inputs.shape == (20, 6) and c.targets.shape == (20,) and c.num_processes == 1 for c in counting.seen)
    assert result.train_loss[1:] == pytest.approx(same.train_loss[1:], rel=1e-5)
    assert result.metric == pytest.approx(same.metric, abs=1e-6)


def test_mixed_precision(tiny, counting) -> None:
    result = run(tiny, "counting", dataclasses.replace(CPU, precision="bf16-mixed"))
    assert result.outcome == "finished", result.message


@pytest.mark.parametrize("name", ["sophia", "sophia_h"])
def test_sophia_estimates_curvature_by_itself(tiny, name) -> None:
    result = run(tiny, name, dataclasses.replace(CPU, steps=60), lr=0.03, rho=0.1, weight_decay=0.0)
    assert (result.outcome, result.message) == ("finished", "")
    assert result.metric[-1] > result.metric[0] + 0.2
    parameters = sum(p.numel() for p in tiny.model().parameters())
    assert result.state_bytes == pytest.approx(2 * 4 * parameters, abs=64)


@pytest.mark.parametrize("name", ["sam", "sam(base='lion', adaptive=True)"])
def test_sam_looks_twice_at_every_batch(tiny, name) -> None:
    result = run(tiny, name, dataclasses.replace(CPU, steps=60), lr=0.03, rho=0.05, weight_decay=0.0)
    assert (result.outcome, result.message) == ("finished", "")
    assert result.metric[-1] > result.metric[0] + 0.2
    parameters = sum(p.numel() for p in tiny.model().parameters())
    assert result.state_bytes == pytest.approx((1 if "lion" in name else 2) * 4 * parameters, abs=64)


def test_several_steps_on_a_surrogate_of_every_batch(tiny) -> None:
    result = run(tiny, "sso", dataclasses.replace(CPU, steps=60), lr=1.0, inner_steps=3, weight_decay=0.0)
    assert (result.outcome, result.message) == ("finished", "")
    assert result.metric[-1] > result.metric[0] + 0.2 and result.state_bytes == 0


def test_a_loss_without_a_known_likelihood_says_what_to_do(tiny) -> None:
    regression = dataclasses.replace(tiny, loss=lambda out, y: (out.sum(1) - y).abs().mean(), metric=None, goal="min")
    regression = dataclasses.replace(regression, train=tuple(t.float() for t in tiny.train.tensors))
    result = run(regression, "sophia")
    assert result.outcome == "raised" and "say likelihood='categorical', 'bernoulli' or 'gaussian'" in result.message
    assert run(regression, "sophia_h").outcome == "finished"
