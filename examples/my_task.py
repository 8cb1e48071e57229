"""A task of your own: `thalweg race --task examples/my_task.py`.

The file defines `task()`, which says what to train on; the race does the rest. This one predicts how a patient's
diabetes progresses within a year from ten measurements (442 real patients, shipped with scikit-learn).
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from thalweg.tasks import Task


def model():
    # A fresh model at every call. The race seeds torch before, so recipes with the same seed start from the same weights.
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def task():
    data = load_diabetes()
    X = torch.tensor(data.data, dtype=torch.float32)
    y = torch.tensor(data.target, dtype=torch.float32).unsqueeze(1)  # (442, 1), the shape of the outputs

    # Shuffle once with a fixed seed, and hold out 110 patients that training never sees.
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    train, valid = order[110:], order[:110]

    # Scale with what training may know only: statistics of all patients would leak the held-out ones.
    X = (X - X[train].mean(0)) / X[train].std(0)
    y = (y - y[train].mean()) / y[train].std()

    return Task(
        name="diabetes",
        model=model,
        train=(X[train], y[train]),
        valid=(X[valid], y[valid]),
        loss=nn.functional.mse_loss,  # what training minimizes; also the metric, as no other is given
        metric_name="squared error",  # 1.0 is as good as always guessing the mean
        batch_size=32,
        steps=200,
    )
