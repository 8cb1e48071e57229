import random

from thalweg.race.conduct import Conductor
from thalweg.race.execute import Progress
from thalweg.race.job import Conditions
from thalweg.race.plan import Plan
from thalweg.race.progress import Silent


class Scrambled:
    """An executor whose jobs end in any order; a run's metric is its setting."""

    def __init__(self, slots, seed):
        self.slots, self._draws, self._jobs, self.most = slots, random.Random(seed), [], 0

    def submit(self, job):
        self._jobs.append(job)
        self.most = max(self.most, len(self._jobs))
        assert len(self._jobs) <= self.slots

    def events(self, timeout):
        job = self._jobs.pop(self._draws.randrange(len(self._jobs)))
        yield Progress(job, 0.5)
        run = job.empty_run()
        run.steps, run.metric = [0], [job.settings["x"]]
        yield run

    def close(self): ...


def plan(recipes=("adamw", "lion", "sgd")):
    settings = {name: [{"x": value} for value in (0.3, 0.1, 0.2)] for name in recipes}
    return Plan(
        task="t",
        source="t",
        fingerprint="",
        metric_name="loss",
        goal="min",
        recipes=list(recipes),
        baseline=recipes[0],
        trials=3,
        tuning_seeds=1,
        seeds=4,
        seed=0,
        conditions=Conditions(steps=1),
        spaces={name: {} for name in recipes},
        settings=settings,
    )


def test_every_run_once_whatever_the_order():
    for seed in range(20):
        kept = []
        conductor = Conductor(plan(), [], kept.append, Silent())
        executor = Scrambled(1 + seed % 4, seed)
        conductor.run(executor)
        identities = [(run.recipe, run.phase, run.index) for run in kept]
        assert len(identities) == len(set(identities)) == plan().total == 21
        assert executor.most == executor.slots
        assert all(run.settings == {"x": 0.1} for run in kept if run.phase == "fresh")
        assert conductor.left == 0


def test_a_fresh_run_never_starts_before_its_recipe_is_tuned():
    kept = []
    Conductor(plan(), [], kept.append, Silent()).run(Scrambled(3, 5))
    for recipe in plan().recipes:
        phases = [run.phase for run in kept if run.recipe == recipe]
        assert phases == ["tune"] * 3 + ["fresh"] * 4


def test_what_is_done_is_not_done_again():
    first = []
    Conductor(plan(), [], first.append, Silent()).run(Scrambled(2, 1))
    for keep in (0, 1, 8, 20, 21):
        again = []
        conductor = Conductor(plan(), first[:keep], again.append, Silent())
        conductor.run(Scrambled(2, 7))
        assert len(again) == 21 - keep
        assert len(conductor.runs) == 21


def test_the_choice_waits_for_all_trials():
    done = [job.empty_run() for job in plan().tuning_jobs()[:-1]]
    for run in done:
        run.metric = [run.settings["x"]]
    assert set(Conductor(plan(), done, lambda run: None, Silent()).chosen()) == {"adamw", "lion"}
