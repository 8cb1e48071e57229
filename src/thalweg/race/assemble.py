"""From a recipe to a model and an optimizer: every part applied at its place, in one order."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from thalweg.race.batches import generator
from thalweg.race.recipe import Recipe
from thalweg.tasks.task import Task


def prepared_model(recipe: Recipe, settings: Mapping[str, Any], model: nn.Module, seed: int) -> nn.Module:
    """``model`` converted (``nn``) and started (``init``) as the recipe says; random draws depend on ``seed`` alone."""
    for part in recipe.of_kind("nn"):
        model = part.method.target(model, **recipe.settings_of(part, settings))
    for part in recipe.of_kind("init"):
        part.method.target(model, generator=generator(seed, "init"), **recipe.settings_of(part, settings))
    return model


def made_optimizer(recipe: Recipe, settings: Mapping[str, Any], model: nn.Module) -> Optimizer:
    """The recipe's optimizer for ``model``, its gradient transforms before its own chain."""
    transforms = [part.method.target(**recipe.settings_of(part, settings)) for part in recipe.of_kind("transform")]
    before = {"before": reduce(operator.rshift, transforms)} if transforms else {}
    (part,) = recipe.of_kind("optim")
    return part.method.target(model, **before, **recipe.settings_of(part, settings))


def rehearse(recipe: Recipe, settings: Mapping[str, Any], task: Task) -> None:
    """Build the recipe once on the task's model, so that a bad value is found before anything has trained.

    Raises:
        ValueError: one line with the recipe's name and what it can't be built for.
    """
    with torch.random.fork_rng():
        model = task.model()
        try:
            made_optimizer(recipe, settings, prepared_model(recipe, settings, model, 0))
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"recipe {recipe.name!r} can't be built for {task.name}: {error}".splitlines()[0]
            ) from error
