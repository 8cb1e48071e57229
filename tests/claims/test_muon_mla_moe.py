"""The claim of muon-mla-moe: its smallest run, its architectures, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import muon_mla_moe as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert claim.judge([found]).word in ("partly", "not reproduced at this scale", "reproduced")


def test_architectures_are_as_large_as_each_other() -> None:
    size = claim.PLANS["cpu"].size
    models = {name: claim.build(size, name) for name in claim.ARCHITECTURES}
    cached = {name: claim.cached_numbers(model) for name, model in models.items()}
    assert list(cached.values()) == [128, 40, 128, 40]
    counts = [sum(p.numel() for p in models[name].parameters()) for name in claim.ARCHITECTURES[:2]]
    assert abs(counts[1] / counts[0] - 1) < 0.02
    experts = models["latent, experts"].blocks[0].mlp.experts
    active = (experts.top_k + 1) * 3 * experts.experts.embed_dim * experts.experts.hidden_dim
    assert active == pytest.approx(sum(p.numel() for p in models[claim.PLAIN].blocks[0].mlp.parameters()), rel=0.02)
    stds = [p.std().item() for p in models["latent, experts"].parameters() if p.ndim > 1]
    assert all(std == pytest.approx(0.02, rel=0.1) for std in stds)


def test_the_balancing_loss_is_trained() -> None:
    torch.manual_seed(0)
    model = claim.build(claim.PLANS["smoke"].size, "multi-head, experts")
    model(torch.zeros(2, 8, dtype=torch.uint8))
    loss = claim._balancing_loss(model)
    assert loss.item() > 0
    loss.backward()
    assert all(block.mlp.experts.router.weight.grad.abs().max() > 0 for block in model.blocks)
    with pytest.raises(ValueError, match=r"^the model has no attention$"):
        claim.cached_numbers(torch.nn.Linear(2, 2))


def made(
    share: float = 0.6, control: float = 1.0, latent: float = 1.01, saved: float = 40.0, compounds: float = 0.01
) -> list[Measurement]:
    found = []
    for seed in (1, 2, 3):
        numbers = {
            "Muon: share of the steps to AdamW's loss": share + 0.01 * (seed - 2),
            "normalized momentum: share of the steps to AdamW's loss": control,
            "Muon: share of the compute to AdamW's loss": 1.3 * share,
        }
        if seed < 3:  # architectures are compared on two seeds
            for arm, loss in (("AdamW", 2.0), ("Muon", 1.9)):
                numbers[f"{arm}, {claim.PLAIN}: validation loss"] = loss
                numbers[f"{arm}, latent, dense: validation loss"] = loss * latent
                numbers[f"{arm}, multi-head, experts: validation loss"] = loss
                numbers[f"{arm}, latent, experts: validation loss"] = loss - (compounds if arm == "Muon" else 0)
            numbers |= {f"{name}: numbers cached": 128.0 for name in claim.ARCHITECTURES}
            numbers["latent, dense: numbers cached"] = saved
        found.append(Measurement(numbers))
    return found


@pytest.mark.parametrize(
    ("settings", "word", "words", "explained"),
    [
        ({}, "reproduced", "Muon 0.60 (at most 0.65; 0.78 of the compute)", False),
        ({"control": 0.64}, "reproduced", "normalized momentum 0.64", True),
        ({"share": 0.8}, "partly", "a tuned AdamW leaves less to gain", False),
        ({"share": 1.05}, "partly", "Muon gains no steps here", False),  # the architecture alone
        ({"share": 1.05, "control": 0.5}, "partly", "Muon gains no steps here", False),
        ({"latent": 1.03}, "partly", "a rank of half the width is too little", False),
        ({"saved": 60.0}, "partly", "caches 53% less", False),
        ({"compounds": -0.01}, "partly", "experts of this size see few bytes", False),
        ({"share": 0.8, "compounds": -0.01}, "partly", "less to gain at this size; experts", False),
        ({"share": 0.96, "latent": 1.03}, "not reproduced at this scale", "Muon gains no steps here; a rank", False),
    ],
)
def test_verdicts(settings: dict, word: str, words: str, explained: bool) -> None:
    verdict = claim.judge(made(**settings))
    assert verdict.word == word and words in verdict.because and bool(verdict.explained_by) is explained
