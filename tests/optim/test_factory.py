"""Optimizers by name."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from thalweg.autodiff import Closure
from thalweg.optim import ChainedOptimizer, TargetSurrogate, create, list_optimizers
from thalweg.optim.engine.wrapping import WrappedOptimizer
from thalweg.registry import methods


def test_list() -> None:
    known = list_optimizers()
    assert {"adamw", "sgd", "lion", "lamb", "lars", "muon"} <= set(known) and known == sorted(known)
    assert "gradient_noise" not in known  # a transform, put before an optimizer


@pytest.mark.parametrize("name", list_optimizers())
def test_every_name_trains_a_module(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(64, 4), torch.randint(2, (64,))
    optimizer = create(name, model)
    assert isinstance(optimizer, ChainedOptimizer | WrappedOptimizer | TargetSurrogate)
    first = nn.functional.cross_entropy(model(x), y)
    closure = Closure(model, nn.functional.cross_entropy, x, y)
    for _ in range(50):
        loss = optimizer.step(closure)
    assert loss.item() < first.item()


@pytest.mark.parametrize("name", list_optimizers())
def test_rate_and_settings_arrive(name: str) -> None:
    default = inspect.signature(methods("optim")[name].target).parameters["lr"].default
    assert create(name, nn.Linear(2, 2)).param_groups[0]["lr"] == default
    group = create(name, nn.Linear(2, 2), lr=0.0123, weight_decay=0.25).param_groups[0]
    assert group["lr"] == 0.0123 and group["weight_decay"] == 0.25


@pytest.mark.parametrize("name", list_optimizers())
def test_searched_settings_exist_and_can_be_set(name: str) -> None:
    method = methods("optim")[name]
    assert method.search and set(method.search) <= set(method.settings())
    for low in ({key: space[1] for key, space in method.search.items()}, {k: s[-1] for k, s in method.search.items()}):
        create(name, nn.Linear(2, 2), **low)


def test_errors() -> None:
    with pytest.raises(ValueError) as caught:
        create("lions", nn.Linear(2, 2))
    assert str(caught.value).startswith("unknown optimizer 'lions'; did you mean 'lion'? (choose from adabelief, ")
    with pytest.raises(ValueError, match="unknown optimizer 'gradient_noise'"):
        create("gradient_noise", nn.Linear(2, 2))
    with pytest.raises(TypeError, match="got an unexpected option 'colour'"):
        create("lion", nn.Linear(2, 2), colour="red")
    with pytest.raises(ValueError, match="Invalid lr: -1"):
        create("lion", nn.Linear(2, 2), lr=-1)
