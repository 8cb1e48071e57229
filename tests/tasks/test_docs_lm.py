import math

import pytest
import torch

from thalweg.tasks import docs_lm
from thalweg.tasks.docs_lm import as_bytes, next_byte_loss, spread, windows
from thalweg.tasks.docs_text import documents, split_documents


@pytest.fixture(scope="module")
def task():
    return docs_lm.task()


def test_shapes(task):
    assert len(task.valid) == 256 and len(task.train) > 40_000
    for inputs, targets in (task.train.tensors, task.valid.tensors):
        assert inputs.dtype == targets.dtype == torch.uint8
        assert inputs.shape == targets.shape == (len(inputs), 64)


def test_targets_are_the_next_bytes(task):
    inputs, targets = task.train.tensors
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs[1:, 0], targets[:-1, -1])


def test_windows_are_text_of_their_side(task):
    train, valid = split_documents(documents())
    for (inputs, _), texts in ((task.train.tensors, train), (task.valid.tensors, valid)):
        text = "\n\n".join(texts[name] for name in sorted(texts)).encode()
        for row in (0, len(inputs) // 2, len(inputs) - 1):
            assert bytes(inputs[row].tolist()) in text


def test_no_equal_text_on_both_sides(task):
    train, _ = (t.numpy() for t in task.train.tensors)
    trained = {row.tobytes() for row in train}
    prose = [row for row in task.valid.tensors[0].numpy() if len(set(row.tolist())) > 10]
    assert len(prose) > 200
    assert not any(row.tobytes() in trained for row in prose)


def test_the_same_text_every_time(task):
    again = docs_lm.task()
    assert torch.equal(task.valid.tensors[0], again.valid.tensors[0])
    assert torch.equal(task.train.tensors[0], again.train.tensors[0])


def test_as_bytes_is_utf8_in_the_order_of_names():
    assert bytes(as_bytes({"b": "é", "a": "x"}).tolist()) == "x\n\né".encode()


def test_windows_leave_out_an_incomplete_one():
    inputs, targets = windows(torch.arange(8, dtype=torch.uint8), 3)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5]] and targets.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_spread_reaches_over_the_whole_text():
    rows = torch.arange(100).unsqueeze(1)
    inputs, targets = spread(rows, rows + 1, 4)
    assert inputs.flatten().tolist() == [0, 25, 50, 75] and torch.equal(targets, inputs + 1)


def test_loss_of_an_ignorant_model_is_log_256(task):
    logits = torch.zeros(2, 64, 256)
    assert next_byte_loss(logits, task.valid.tensors[1][:2]).item() == pytest.approx(math.log(256), abs=1e-5)
