import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.race.spec import TaskSpec
from thalweg.tasks import Task, TaskError


def test_names_and_files(tiny_path):
    assert TaskSpec.of("digits").kind == "name"
    spec = TaskSpec.of(tiny_path)
    assert spec.kind == "file" and len(spec.fingerprint) == 16
    assert spec.load().name == "tiny"
    assert TaskSpec.of("digits").load().name == "digits"


def test_a_file_travels_to_a_machine_that_does_not_have_it(tiny_path, tmp_path):
    copy = tmp_path / "mine.py"
    copy.write_text(Path(tiny_path).read_text())
    spec = TaskSpec.of(copy)
    copy.unlink()
    assert pickle.loads(pickle.dumps(spec)).load().name == "tiny"


def test_a_file_that_changes_while_the_race_runs_is_noticed(tiny_path, tmp_path):
    copy = tmp_path / "mine.py"
    copy.write_text(Path(tiny_path).read_text())
    spec = TaskSpec.of(copy)
    copy.write_text(Path(tiny_path).read_text() + "\n# changed\n")
    with pytest.raises(TaskError, match=r"mine\.py changed while the race was running"):
        spec.load()
    assert TaskSpec.of(copy).fingerprint != spec.fingerprint


def test_a_missing_file(tmp_path):
    with pytest.raises(TaskError, match=r"nothere\.py: can't be read: No such file"):
        TaskSpec.of(tmp_path / "nothere.py")


def test_objects_travel_pickled(tiny):
    spec = TaskSpec.of(tiny).pickled(tiny)
    loaded = pickle.loads(pickle.dumps(spec)).load()
    assert torch.equal(loaded.train.tensors[0], tiny.train.tensors[0])


def test_what_is_held_stays_behind(tiny, tiny_path):
    assert TaskSpec.of(tiny_path).held(tiny).pickled(tiny).task is None
    spec = TaskSpec.of(tiny).held(tiny)
    assert spec.load() is tiny
    again = pickle.loads(pickle.dumps(spec.pickled(tiny)))
    assert again.task is None and again.load().name == "tiny"


def test_what_can_not_be_pickled_is_named():
    X = torch.ones(4, 1)
    task = Task("mine", lambda: nn.Linear(1, 1), (X, X), (X, X), nn.functional.mse_loss, batch_size=2)
    with pytest.raises(
        TaskError, match=r"task 'mine': its model can't be sent to worker processes .* or use workers=0"
    ) as error:
        TaskSpec.of(task).pickled(task)
    assert "\n" not in str(error.value)
    assert TaskSpec.of(task).held(task).load() is task


def test_an_object_whose_code_is_not_there(tiny):
    spec = TaskSpec("object", "gone", b"cno_such_module\nthing\n.")
    with pytest.raises(
        TaskError, match=r"task 'gone' can't be loaded in a worker process .*importable module, or use workers=0"
    ):
        spec.load()
