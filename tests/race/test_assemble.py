"""Recipes are built before anything trains, and a bad value is one line."""

from __future__ import annotations

import pytest
import torch

from thalweg.race import parse
from thalweg.race.assemble import made_optimizer, prepared_model, rehearse
from thalweg.race.tuning import trial_settings
from thalweg.tasks import load


def test_a_recipe_is_applied_part_by_part() -> None:
    task = load("digits")
    recipe = parse("adamw(lr=0.5) + gradient_noise + orthogonal")
    settings = trial_settings(recipe, 1)[0]
    torch.manual_seed(0)
    model = prepared_model(recipe, settings, task.model(), 3)
    weight = next(p for p in model.parameters() if p.ndim == 2)
    gram = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
    torch.testing.assert_close(gram, gram.diagonal().mean() * torch.eye(len(gram)), atol=1e-4, rtol=0)
    optimizer = made_optimizer(recipe, settings, model)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "noise" in repr(optimizer)


@pytest.mark.parametrize("text", ["muon(ns_steps=0)", "lion(betas=(0.9,))", "adamw(lr=-1.0)", "sgd + ghost_batch_norm"])
def test_a_recipe_that_cannot_be_built_is_found_before_training(text: str) -> None:
    recipe = parse(text)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="can't be built for digits") as caught:
        rehearse(recipe, trial_settings(recipe, 1)[0], load("digits"))
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())
