"""The small language model that claims train: the schedule, courses, and what a training shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.claims.engine import language_model
from thalweg.claims.engine.language_model import BROKEN, NEVER, Course, Size, best_rate, decoder, factor, train
from thalweg.optim import SGD

TINY = Size(steps=4, width=16, context=8, evaluations=2, valid_windows=4)


def test_the_schedule() -> None:
    factors = [factor(step, 400) for step in range(400)]
    assert factors[0] == 1 / 40 and max(factors) == factors[40] == 1.0 and factors[-1] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize(
    ("target", "share"), [(4.0, 0.0), (3.5, 0.25), (3.0, 0.5), (1.0, 0.75), (0.0, 1.0), (-1.0, NEVER)]
)
def test_share_of_the_steps(target: float, share: float) -> None:
    """Between evaluations a line; the loss may rise again on the way."""
    assert Course((0.0, 10.0, 15.0, 20.0), (4.0, 3.0, 1.0, 0.0)).share_to(target) == pytest.approx(share)
    assert Course((0.0, 5.0, 10.0), (4.0, 6.0, 2.0)).share_to(4.0) == 0.0


def test_a_training_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[int, dict[str, torch.Tensor]]] = []
    rates: list[float] = []

    def make(model: nn.Module) -> SGD:
        optimizer = SGD(model, lr=0.5, momentum=0.0)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    def extra(model: nn.Module) -> torch.Tensor:
        return 0.0 * model.head.weight.sum() + model.blocks[0].mlp[0].weight.sum()

    found = train(make, 3, TINY, extra_loss=extra, look_every=2, look=lambda step, moved: moves.append((step, moved)))
    assert rates == [0.5 * factor(step, 4) for step in range(4)]
    assert found.steps == (0.0, 2.0, 4.0) and len(found.losses) == 3 and found.losses[0] == pytest.approx(5.55, abs=0.1)
    assert [step for step, _ in moves] == [1, 3]
    moved = moves[0][1]["blocks.0.mlp.0.weight"]
    assert moved.mean().item() == pytest.approx(rates[1], rel=0.05)  # the gradient of the extra loss is 1
    assert all(m.ndim >= 2 for m in moves[0][1].values())
    assert train(make, 3, TINY, extra_loss=extra) == found != train(make, 4, TINY, extra_loss=extra)


def test_broken_trainings_count_as_bad() -> None:
    assert train(lambda model: SGD(model, lr=1e30), 0, TINY).final == BROKEN
    broken = decoder(TINY)
    nn.init.constant_(broken.head.weight, float("nan"))
    tokens = torch.zeros(2, 8, dtype=torch.uint8)
    assert language_model.loss_of(broken, tokens, tokens) == BROKEN


def test_the_best_rate() -> None:
    tried: list[float] = []

    def score(rate: float) -> float:
        tried.append(rate)
        return abs(rate - 0.01)

    assert best_rate(score, (-1.5, -1.0, -0.5), widen=3) == pytest.approx(0.01) and len(tried) == 5
    tried.clear()
    assert best_rate(score, (-1.0,), widen=3) == 0.1 and tried == []
