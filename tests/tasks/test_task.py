import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from thalweg.tasks.task import Task, TaskError

PAIR = torch.zeros(6, 2), torch.zeros(6, 1)


def make(**changes):
    settings = {"name": "mine", "train": PAIR, "valid": PAIR} | changes
    return Task(model=lambda: nn.Linear(2, 1), loss=nn.functional.mse_loss, **settings)


def test_a_pair_of_tensors_becomes_a_dataset():
    task = make(train=list(PAIR))
    assert type(task.train) is TensorDataset and len(task.train) == 6


def test_a_dataset_stays_what_it_is():
    data = TensorDataset(*PAIR)
    assert make(valid=data).valid is data


def test_better_follows_the_goal():
    assert make().better(1.0, 2.0) and not make().better(2.0, 1.0)
    assert make(goal="max").better(2.0, 1.0) and not make(goal="max").better(1.0, 1.0)


def test_a_target_of_numpy_can_be_stored():
    assert json.dumps(make(target=np.float64(0.1)).target) == "0.1"
    assert type(make(target=np.float32(0.1)).target) is type(make(target=1).target) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (PAIR[0], PAIR[1][:3])}, "mine: train has 6 inputs but 3 targets"),
        ({"valid": None}, r"mine: valid must be a map-style dataset or a pair of tensors \(X, y\), not NoneType"),
        ({"goal": "down"}, "mine: goal must be 'min' or 'max', not 'down'"),
        ({"name": 3}, "3: name must be a string, not 3"),
        ({"metric_name": None}, "mine: metric_name must be a string, not None"),
        ({"metric_name": 5}, "mine: metric_name must be a string, not 5"),
        ({"steps": 0}, "mine: steps must be a positive whole number, not 0"),
        ({"batch_size": 2.5}, "mine: batch_size must be a positive whole number, not 2.5"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(TaskError, match=message):
        make(**changes)
