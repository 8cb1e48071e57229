import dataclasses
import itertools
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from thalweg import registry
from thalweg.race import meters
from thalweg.race import recipe as recipes
from thalweg.race.job import Conditions, Job
from thalweg.race.trial import train
from thalweg.tasks import Task

recipes.load_methods()
CPU = Conditions(steps=12, eval_every=3, device="cpu")


def job(recipe="adamw", seed=1, settings=None, phase="fresh"):
    return Job(recipe, phase, 0, seed, settings or {"lr": 0.01, "weight_decay": 0.0})


@pytest.fixture
def optimizer(monkeypatch):
    """Registers an optimizer under the name ``broken``."""

    def register(target):
        monkeypatch.setitem(registry._METHODS, "broken", registry.Method("broken", "optim", target, {}))

    return register


def test_what_a_finished_run_holds(tiny):
    run = train(tiny, job(), CPU)
    assert (run.outcome, run.message) == ("finished", "")
    assert run.steps == [0, 3, 6, 9, 12]
    assert len(run.metric) == len(run.seconds) == len(run.train_loss) == 5
    assert run.seconds[0] == 0.0 and all(a < b for a, b in zip(run.seconds, run.seconds[1:], strict=False))
    assert math.isnan(run.train_loss[0]) and all(map(math.isfinite, run.train_loss[1:]))
    assert run.step_seconds > 0
    parameters = sum(p.numel() for p in tiny.model().parameters())
    assert run.state_bytes == pytest.approx(2 * 4 * parameters, abs=64)


def test_the_same_job_gives_the_same_numbers_whatever_came_before(tiny):
    first = train(tiny, job(), CPU)
    torch.rand(100)
    train(tiny, job("lion", seed=7, settings={}), CPU)
    second = train(tiny, job(), CPU)
    assert (first.metric, first.train_loss[1:]) == (second.metric, second.train_loss[1:])
    assert train(tiny, job(seed=2), CPU).train_loss[1:] != first.train_loss[1:]


def test_recipes_are_paired_by_seed(tiny):
    """Model and data order are the same for every recipe: an optimizer that does nothing sees the same losses."""
    still = {"lr": 0.0, "weight_decay": 0.0}
    losses = [
        train(tiny, job(name, settings=still), CPU).train_loss[1:] for name in ("adamw", "lion", "muon(rest_lr=0.0)")
    ]
    assert losses[0] == losses[1] == losses[2]


def test_learning_helps(tiny):
    run = train(tiny, job(settings={"lr": 0.03}), dataclasses.replace(CPU, steps=60, eval_every=None))
    assert run.metric[-1] > run.metric[0] + 0.2
    assert run.steps[1] == 2


def test_agrees_with_a_loop_written_by_hand(tiny):
    from thalweg.race.batches import index_batches
    from thalweg.race.schedule import factor

    torch.manual_seed(5)
    model = tiny.model()
    twin = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = tiny.train.tensors
    metrics = []
    for step, batch in zip(range(12), index_batches(120, 20, seed=5), strict=False):
        twin.param_groups[0]["lr"] = 0.1 * factor(step / 12, 1 / 12)
        twin.zero_grad()
        tiny.loss(model(inputs[batch]), targets[batch]).backward()
        twin.step()
        if (step + 1) % 3 == 0:
            with torch.no_grad():
                metrics.append(tiny.metric(model(tiny.valid.tensors[0]), tiny.valid.tensors[1]).item())
    run = train(tiny, job("sgd(momentum=0.9)", seed=5, settings={"lr": 0.1, "weight_decay": 0.0}), CPU)
    assert run.metric[1:] == pytest.approx(metrics, abs=1e-6)


def test_every_seam_acts(tiny):
    with_norm = dataclasses.replace(
        tiny, model=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    )
    recipe = "adamw + gradient_noise(eta=1e-4) + orthogonal + ghost_batch_norm(ghost_size=4) + el2n(runs=1, epochs=1, keep=0.5)"
    run = train(with_norm, job(recipe, settings={"lr": 0.01, "gain": 1.5}), CPU)
    assert (run.outcome, run.message) == ("finished", "")
    plain = train(with_norm, job(settings={"lr": 0.01}), CPU)
    assert run.metric[0] != plain.metric[0] or run.train_loss[1] != plain.train_loss[1]


def test_a_budget_in_seconds(tiny, monkeypatch):
    """By a clock that goes on by two milliseconds a look: how many evaluations fit is the same on every machine."""
    looks = itertools.count()
    monkeypatch.setattr(meters, "time", SimpleNamespace(perf_counter=lambda: 0.002 * next(looks)))
    run = train(tiny, job(), Conditions(seconds=0.2, device="cpu"))
    assert run.outcome == "finished"
    assert run.seconds[-1] >= 0.2
    assert 10 <= len(run.steps) <= 27


def test_stops_at_the_target_if_asked(tiny):
    wanted = dataclasses.replace(CPU, target=0.0, stop_at_target=True)
    assert train(tiny, job(), wanted).steps == [0, 3]
    assert train(tiny, job(phase="tune"), wanted).steps[-1] == 12
    assert train(tiny, job(), dataclasses.replace(CPU, target=0.0)).steps[-1] == 12
    assert train(tiny, job(), dataclasses.replace(CPU, target=2.0, stop_at_target=True)).steps[-1] == 12


def test_a_huge_learning_rate_diverges(tiny):
    run = train(dataclasses.replace(tiny, loss=nn.functional.cross_entropy), job("sgd", settings={"lr": 1e30}), CPU)
    assert run.outcome == "diverged"
    assert "at step" in run.message
    assert run.steps[0] == 0 and len(run.metric) < 5


def test_an_exploding_loss_diverges_before_it_is_infinite(tiny):
    regression = dataclasses.replace(
        tiny, loss=lambda out, y: out.square().mean(), metric=None, metric_name="loss", goal="min"
    )
    run = train(regression, job("sgd", settings={"lr": 50.0}), dataclasses.replace(CPU, steps=40))
    assert run.outcome == "diverged"
    assert "more than 1e+06 times the first" in run.message


def test_a_metric_that_is_not_finite_diverges(tiny):
    run = train(dataclasses.replace(tiny, metric=lambda out, y: float("nan")), job(), CPU)
    assert (run.outcome, run.message) == ("diverged", "accuracy is nan at step 0")


def test_an_exception_is_an_outcome_with_its_place(tiny, optimizer):
    def failing(model) -> torch.optim.Optimizer:
        raise TypeError("no such thing")

    optimizer(failing)
    run = train(tiny, job("broken", settings={}), CPU)
    assert run.outcome == "raised"
    assert run.message.startswith("TypeError: no such thing (test_trial.py:")


def test_exit_in_a_users_code_is_an_outcome(tiny):
    run = train(dataclasses.replace(tiny, model=lambda: sys.exit(3)), job(), CPU)
    assert run.outcome == "raised"
    assert "SystemExit: 3" in run.message


def test_out_of_memory_is_an_outcome(tiny, optimizer):
    class Greedy(torch.optim.SGD):
        def __init__(self, model):
            super().__init__(model.parameters(), lr=0.1)

        def step(self, closure=None):
            torch.empty(2**60, dtype=torch.uint8)

    optimizer(Greedy)
    run = train(tiny, job("broken", settings={}), CPU)
    assert run.outcome == "out_of_memory"
    assert "test_trial.py" in run.message


def test_peak_memory_sees_the_activations():
    """A model that keeps 64 MiB of activations needs at least these, and not ten times as much."""
    width = 2**12

    def model():
        return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    X = torch.ones(4096, 1)
    task = Task("wide", model, (X, X), (X[:8], X[:8]), nn.functional.mse_loss, batch_size=4096, steps=2)
    run = train(task, job(), Conditions(steps=2, device="cpu"))
    assert 64 * 2**20 <= run.peak_memory_bytes <= 640 * 2**20


def test_bfloat16_parameters(tiny):
    run = train(tiny, job(), dataclasses.replace(CPU, precision="bf16-true"))
    assert run.outcome == "finished", run.message
    assert train(tiny, job(), dataclasses.replace(CPU, precision="bf16-mixed")).outcome == "finished"
