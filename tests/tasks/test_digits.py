import hashlib
import sys

import pytest
import torch

from thalweg.tasks import digits
from thalweg.tasks.task import TaskError


@pytest.fixture(scope="module")
def task():
    return digits.task()


def test_the_real_digits_in_a_fixed_split(task):
    train, valid = task.train.tensors, task.valid.tensors
    assert [tuple(t.shape) for t in (*train, *valid)] == [(1297, 64), (1297,), (500, 64), (500,)]
    pixels = (valid[0] * 16).round().to(torch.uint8)
    assert torch.equal(pixels / 16, valid[0])
    digest = hashlib.sha256(pixels.numpy().tobytes() + valid[1].to(torch.uint8).numpy().tobytes()).hexdigest()
    assert digest[:16] == "024276f43aa16def"


def test_no_image_on_both_sides(task):
    train = {row.numpy().tobytes() for row in task.train.tensors[0]}
    valid = {row.numpy().tobytes() for row in task.valid.tensors[0]}
    assert len(train) == 1297 and not train & valid


def test_every_digit_on_both_sides(task):
    assert torch.bincount(task.valid.tensors[1]).tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]


def test_network_is_64_128_128_10(task):
    shapes = [tuple(p.shape) for p in task.model().parameters() if p.ndim == 2]
    assert shapes == [(128, 64), (128, 128), (10, 128)]


def test_accuracy_counts_right_answers(task):
    outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert task.metric(outputs, torch.tensor([1, 0, 0, 1])) == 0.75
    assert task.goal == "max"


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(TaskError, match=r"^the task digits needs scikit-learn: pip install 'thalweg\[race\]'$"):
        digits.task()
