"""One training run, through Lightning Fabric, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.autodiff import Closure
from thalweg.race import recipe as recipes
from thalweg.race.assemble import made_optimizer, prepared_model
from thalweg.race.batches import Reader, derived_seed, generator, index_batches, seed_everything, shares
from thalweg.race.devices import fabric_for
from thalweg.race.job import Conditions, Job
from thalweg.race.meters import MemoryMeter, StepClock, state_bytes
from thalweg.race.outcome import Diverged, outcome_of
from thalweg.race.records import Run
from thalweg.race.schedule import ScheduledRates, factor
from thalweg.tasks.task import Task

EVALUATIONS = 25
"""Evaluations in a run, besides the one at the start, where the task doesn't say how often."""

EXPLODED = 1e6
"""A loss this many times the first one counts as diverged."""

WARM_UP_STEPS = 2

Report = Callable[[float], None]


def train(task: Task, job: Job, conditions: Conditions, report: Report = lambda fraction: None) -> Run:
    """Run one job; whatever goes wrong inside is the run's outcome, never an exception.

    The order is: seed, model, converters (``nn``), start (``init``), device and sharding, optimizer with its
    transforms, data order (``data``). Model, data order and everything drawn in training depend on the job's seed
    alone, so that recipes are paired by seed. ``seconds`` starts after two unrecorded steps of a throw-away copy:
    compilation and first-call costs are paid once in a real training and would drown a short run.

    Args:
        task: what is trained.
        job: recipe, settings and seed.
        conditions: budget, devices, precision.
        report: called at evaluations with the share of the budget that is used.

    Returns:
        The measured run; its ``outcome`` says how it ended.
    """
    run = job.empty_run()
    try:
        trial = _Trial(task, job, conditions, run, report)
        trial.warm_up()
        trial.train()
    except (Exception, SystemExit) as error:
        run.outcome, run.message = outcome_of(error)
    return run


@dataclass
class _Learner:
    """A model ready to train: as Fabric wraps it, with its optimizer as Fabric wraps it and as it is."""

    forward: nn.Module
    step: Any
    optimizer: Optimizer


class _Trial:
    def __init__(self, task: Task, job: Job, conditions: Conditions, run: Run, report: Report) -> None:
        recipes.load_methods()
        self.task, self.job, self.conditions, self.run, self.report = task, job, conditions, run, report
        self.recipe = recipes.parse(job.text or job.recipe)
        self.fabric = fabric_for(conditions.device, conditions.devices, conditions.precision, conditions.strategy)
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        self.device = self.fabric.device
        self.steps = conditions.steps if conditions.seconds is None else None
        self.eval_every = conditions.eval_every or max(1, (self.steps or 0) // EVALUATIONS)
        self.reader = Reader(task.train, self.device)
        self.first_loss: float | None = None

    def warm_up(self) -> None:
        """Pay for compilation and first calls on a copy that is thrown away."""
        learner = self._build()
        batch = (
            list(range(self.task.batch_size))
            if self.task.batch_size <= len(self.reader)
            else list(range(len(self.reader)))
        )
        for _ in range(WARM_UP_STEPS):
            self._step(learner, batch)

    def train(self) -> None:
        memory = MemoryMeter(self.device)
        learner = self._build()
        batches = self._batches()
        seed_everything(derived_seed(self.job.seed, "training") + self.rank)
        clock = StepClock(self.device)
        try:
            self._loop(learner, batches, clock)
        finally:
            self.run.step_seconds = clock.median_step()
            self.run.peak_memory_bytes = memory.peak()
            self.run.state_bytes = state_bytes(learner.optimizer)

    def _build(self) -> _Learner:
        """Model and optimizer, from the seed alone."""
        recipe, settings = self.recipe, self.job.settings
        seed_everything(self.job.seed)
        model = prepared_model(recipe, settings, self.task.model(), self.job.seed)
        forward = self.fabric.setup_module(model)
        optimizer = made_optimizer(recipe, settings, model)
        return _Learner(forward.train(), self.fabric.setup_optimizers(optimizer), optimizer)

    def _batches(self) -> Iterator[list[int]]:
        sampler = None
        for part in self.recipe.of_kind("data"):
            draws = generator(self.job.seed, "data")
            settings = self.recipe.settings_of(part, self.job.settings)
            sampler = part.method.target(self.task.train, make_model=self.task.model, generator=draws, **settings)
        for batch in index_batches(len(self.reader), self.task.batch_size, self.job.seed, sampler):
            yield batch[self.rank :: self.world]

    def _step(self, learner: _Learner, batch: list[int]) -> Tensor:
        """One training step; optimizers that need more than gradients get the closure that gives it."""
        closure = Closure(
            learner.forward,
            self.task.loss,
            *self.reader(batch),
            backward=self.fabric.backward,
            zero_grad=learner.step.zero_grad,
            num_processes=self.world,
        )
        if getattr(learner.optimizer, "needs_closure", False):
            loss: Tensor = learner.step.step(closure).detach()
            return loss
        loss = closure()
        learner.step.step()
        return loss

    def _loop(self, learner: _Learner, batches: Iterator[list[int]], clock: StepClock) -> None:
        rates = ScheduledRates(learner.optimizer)
        budget = self.conditions.seconds
        step, elapsed, next_seconds, share, one_step = 0, 0.0, 0.0, 0.0, 0.01
        total = torch.zeros((), device=self.device)
        counted = 0
        self._evaluate(learner, 0, 0.0, math.nan)
        clock.resume()
        while share < 1:
            if self.steps is not None:
                one_step = 1 / self.steps
            rates.scale(factor(share, one_step, self.conditions.schedule))
            loss = self._step(learner, next(batches))
            elapsed = self._agreed(clock.lap())
            total, counted, step = total + loss, counted + 1, step + 1
            if self.first_loss is None:
                self.first_loss = self._mean_over_ranks(loss)
            if self.device.type == "cpu" and self.world == 1:
                self._check_loss(loss.item(), step)
            before, share = share, step / self.steps if self.steps is not None else elapsed / (budget or 1.0)
            one_step = share - before
            due = step % self.eval_every == 0 if self.steps is not None else elapsed >= next_seconds
            if due or share >= 1:
                seconds = clock.pause()
                next_seconds = elapsed + (budget or 0.0) / EVALUATIONS
                mean = self._mean_over_ranks(total / counted)
                self._check_loss(mean, step)
                self._evaluate(learner, step, seconds, mean)
                total, counted = torch.zeros_like(total), 0
                self.report(min(1.0, share))
                if self._reached():
                    return
                clock.resume()

    def _evaluate(self, learner: _Learner, step: int, seconds: float, train_loss: float) -> None:
        value = self._metric(learner)
        run = self.run
        run.steps.append(step)
        run.seconds.append(seconds)
        run.train_loss.append(train_loss)
        run.metric.append(value)
        if not math.isfinite(value):
            raise Diverged(f"{self.task.metric_name} is {value} at step {step}")

    @torch.no_grad()
    def _metric(self, learner: _Learner) -> float:
        """Mean metric over the validation data, every rank measuring its share."""
        metric = self.task.metric or self.task.loss
        reader = Reader(self.task.valid, self.device)
        learner.forward.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for batch, weight in shares(len(reader), self.task.batch_size, self.rank, self.world):
            inputs, targets = reader(batch)
            value = float(metric(learner.forward(inputs), targets))
            sums += torch.tensor([value * weight if weight else 0.0, weight], dtype=torch.float64)
        learner.forward.train()
        if self.world > 1:
            sums = self.fabric.all_reduce(sums.to(self.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
        return (sums[0] / sums[1]).item()

    def _check_loss(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"training loss is {loss} at step {step}")
        first = abs(self.first_loss or 0.0)
        if first > 0 and loss > EXPLODED * first:
            raise Diverged(
                f"training loss {loss:.3g} at step {step} is more than {EXPLODED:.0e} times the first, {first:.3g}"
            )

    def _reached(self) -> bool:
        target, latest = self.conditions.target, self.run.metric[-1]
        if target is None or not self.conditions.stop_at_target or self.job.phase != "fresh":
            return False
        return latest == target or self.task.better(latest, target)

    def _mean_over_ranks(self, loss: Tensor) -> float:
        if self.world > 1:
            loss = self.fabric.all_reduce(loss, reduce_op="mean")  # type: ignore[assignment]
        return loss.item()

    def _agreed(self, elapsed: float) -> float:
        """Elapsed seconds that all ranks agree on, so that they stop at the same step."""
        if self.world == 1 or self.conditions.seconds is None:
            return elapsed
        slowest = torch.tensor(elapsed, dtype=torch.float64, device=self.device)
        return float(self.fabric.all_reduce(slowest, reduce_op="max"))  # type: ignore[arg-type]
