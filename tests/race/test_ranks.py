import math

import pytest

from thalweg.race.job import Conditions, Job
from thalweg.race.ranks import RankRunner
from thalweg.race.spec import TaskSpec
from thalweg.race.worker import InProcess
from thalweg.tasks import TaskError, load

pytestmark = pytest.mark.timeout(900)
STEPS = {"steps": 12, "eval_every": 3, "device": "cpu"}


def jobs():
    return [
        Job("adamw", "fresh", 0, 1, {"lr": 0.01, "weight_decay": 0.1}),
        Job("muon + orthogonal", "fresh", 1, 1, {"lr": 0.02, "rest_lr": 0.003, "weight_decay": 0.1, "gain": 1.0}),
    ]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(tiny_path, strategy):
    """Each rank trains on half of every batch; losses and metrics are those of one process on whole batches.

    With DDP the task is held by this process, as a race without workers starts it: a task file's functions can't be pickled,
    so that ranks load the file.
    """
    spec = TaskSpec.of(tiny_path)
    one = InProcess(spec, Conditions(**STEPS), 1)
    given = spec.held(load(tiny_path)) if strategy == "ddp" else spec
    two = RankRunner(given, Conditions(**STEPS, devices=2, strategy=strategy), 2)
    shares = []
    try:
        for job in jobs():
            alone, together = one.run(job, lambda share: None), two.run(job, shares.append)
            assert (together.outcome, together.message) == ("finished", "")
            assert together.metric == pytest.approx(alone.metric, abs=1e-5)
            assert together.train_loss[1:] == pytest.approx(alone.train_loss[1:], abs=1e-5)
            if strategy == "fsdp":
                assert together.state_bytes < 0.75 * alone.state_bytes
        assert shares == [0.25, 0.5, 0.75, 1.0] * 2
        ranks = [rank.process.pid for rank in two._ranks]
        diverged = two.run(Job("sgd", "fresh", 2, 1, {"lr": 1e30}), lambda share: None)
        assert diverged.outcome == "diverged"
        assert [rank.process.pid for rank in two._ranks] == ranks
    finally:
        two.close()


def test_a_rank_that_fails_takes_its_group_along_and_the_next_run_gets_a_new_one(tiny_path, tmp_path):
    """Under a time budget, which ends at the same step everywhere: a rank that made one more would wait for ever."""
    path = tmp_path / "odd.py"
    folder = tiny_path.rsplit("/", 1)[0]
    path.write_text(
        f"import sys, os, dataclasses\nsys.path.append({folder!r})\nfrom tiny_task import task as tiny\n"
        "def loss(outputs, targets):\n"
        "    if os.environ['LOCAL_RANK'] == '1' and outputs.requires_grad and not os.path.exists('FLAG'):\n"
        "        open('FLAG', 'w').close()\n"
        "        raise ValueError('on one rank only')\n"
        "    return tiny().loss(outputs, targets)\n"
        "def task():\n    return dataclasses.replace(tiny(), loss=loss)\n".replace("FLAG", str(tmp_path / "flag"))
    )
    runner = RankRunner(TaskSpec.of(path), Conditions(seconds=0.3, device="cpu", devices=2), 2)
    shares = []
    try:
        run = runner.run(jobs()[0], lambda share: None)
        assert (run.outcome, run.message) == ("raised", "ValueError: on one rank only (odd.py:7)")
        run = runner.run(jobs()[0], shares.append)
    finally:
        runner.close()
    # Shares of the budget go by the slowest rank's clock; the first rank's own may show less.
    assert (run.outcome, shares[-1]) == ("finished", 1.0)
    assert run.seconds[-1] > 0 and math.isfinite(run.step_seconds)


def test_a_batch_that_can_not_be_shared(tiny_path):
    with pytest.raises(TaskError, match="batch_size 20 can't be divided among 3 devices"):
        RankRunner(TaskSpec.of(tiny_path), Conditions(**STEPS, devices=3), 3)
