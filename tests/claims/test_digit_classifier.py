from __future__ import annotations

import math

import torch

from thalweg.claims.engine.digit_classifier import digits, network, train
from thalweg.tasks import mnist5k


def sgd(lr: float):
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def test_three_cuts_without_overlap_and_the_tasks_test_part() -> None:
    cuts = digits()
    assert [len(labels) for _, labels in cuts.values()] == [3500, 500, 1000]
    assert torch.equal(cuts["test"][1], mnist5k.task().valid.tensors[1])
    rows = {tuple(image.flatten().tolist()[200:260]) for images, _ in cuts.values() for image in images}
    assert len(rows) > 4900  # the images differ, so no part of one cut is in another
    assert abs(cuts["train"][0].mean().item()) < 1e-5


def test_networks() -> None:
    assert 13_900 < sum(p.numel() for p in network().parameters()) < 14_100
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network(batch_norm=False))


def test_training_is_a_function_of_the_seed_and_cuts_the_rate() -> None:
    rates: list[float] = []
    first = train(sgd(0.05), 1, 3, examples=128, before_step=lambda o: rates.append(o.param_groups[0]["lr"]))
    assert rates == [0.05] * 4 + [0.05 * 0.1] * 2
    torch.rand(3)
    assert train(sgd(0.05), 1, 3, examples=128) == first != train(sgd(0.05), 2, 3, examples=128)
    assert len(first.losses) == len(first.test_accuracies) == 3 and first.losses[-1] < first.losses[0]
    assert first.test_accuracies[-1] == first.accuracy["test"]
    assert first.score == (1 - first.accuracy["validation"], first.loss["validation"])


def test_a_training_that_diverges_scores_worst() -> None:
    found = train(sgd(1e30), 1, 2, examples=128)
    assert found.losses[-1] == math.inf and found.test_accuracies[-1] == 0.0 and found.score == (1.0, math.inf)
