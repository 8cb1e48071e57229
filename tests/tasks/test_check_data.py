import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from thalweg.tasks.check_data import SAMPLE, check_data, numbers_in, shapes
from thalweg.tasks.task import Task, TaskError


class Listed(Dataset):
    """Examples from a list; an exception in it is raised."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        example = self.examples[index]
        if isinstance(example, Exception):
            raise example
        return example


class Endless(Listed):
    def __len__(self):
        raise NotImplementedError("no idea")


def check(data, side="valid"):
    good = TensorDataset(torch.zeros(10, 2), torch.zeros(10))
    sides = {"train": good, "valid": good} | {side: data}
    task = Task("mine", torch.nn.Identity, **sides, loss=torch.nn.functional.mse_loss)
    return check_data(task, side, "mine.py")


def spoiled(index, value, shape=(50, 2)):
    tensor = torch.zeros(shape)
    tensor[index] = value
    return tensor


def test_batch_reaches_from_the_first_example_to_the_last():
    inputs, targets = check((torch.arange(1000.0), torch.arange(1000.0)))
    assert len(inputs) == SAMPLE and inputs[0] == 0 and inputs[-1] == 999
    assert torch.equal(inputs, targets)


@pytest.mark.parametrize("size", [1, 2, SAMPLE - 1, SAMPLE, SAMPLE + 1])
def test_any_size(size):
    inputs, _ = check((torch.arange(float(size)), torch.zeros(size)))
    assert len(inputs) == len(inputs.unique()) == min(size, SAMPLE)


def test_batch_holds_the_extreme_labels():
    labels = torch.full((5000,), 5)
    labels[1234], labels[777] = 99, -3
    _, targets = check((torch.zeros(5000, 2), labels))
    assert targets.max() == 99 and targets.min() == -3


def test_dictionaries_and_arrays_are_batched():
    data = Listed([({"ids": np.arange(3), "mask": 1.0}, 2)] * 5)
    inputs, targets = check(data)
    assert shapes(inputs) == "{'ids': (5, 3) int64, 'mask': (5,) float64}" and shapes(targets) == "(5,) int64"


FAULTS = {
    "empty tensors": ((torch.zeros(0, 2), torch.zeros(0)), r"^mine\.py: valid is empty$"),
    "empty dataset": (Listed([]), r"^mine\.py: valid is empty$"),
    "no length": (Endless([]), r"^mine\.py: valid: len\(\) raised NotImplementedError: no idea$"),
    "one tensor": (TensorDataset(torch.zeros(5, 2)), r"^mine\.py: valid gives an input only: there is no target$"),
    "three tensors": (
        TensorDataset(*[torch.zeros(5)] * 3),
        r"^mine\.py: valid gives 3 items, not an \(input, target\) pair$",
    ),
    "bare tensor": (
        Listed([torch.zeros(3)]),
        r"^mine\.py: valid\[0\] is a tensor of shape \(3,\), not an \(input, target\) pair: there is no target$",
    ),
    "dictionary": (Listed([{"x": 1.0}]), r"valid\[0\] is a dict, not an \(input, target\) pair: there is no target$"),
    "single": (Listed([(torch.zeros(3),)]), r"valid\[0\] is an input only: there is no target$"),
    "triple": (Listed([(1.0, 2.0, 3.0)]), r"valid\[0\] is 3 items, not an \(input, target\) pair$"),
    "None as target": (Listed([(1.0, None)]), r"valid\[0\] is a pair whose target is None: there is no target$"),
    "raises": (Listed([(1.0, 2.0), OSError("gone")]), r"^mine\.py: valid\[1\] raised OSError: gone$"),
    "NaN input": (
        (spoiled((31, 1), torch.nan), torch.zeros(50)),
        r"^mine\.py: valid\[31\]: the input holds NaN$",
    ),
    "inf input": ((spoiled((49, 0), torch.inf), torch.zeros(50)), r"^mine\.py: valid\[49\]: the input holds inf$"),
    "NaN target": (
        (torch.zeros(50, 2), spoiled(7, torch.nan, (50,))),
        r"^mine\.py: valid\[7\]: the target holds NaN$",
    ),
    "minus inf target": ((torch.zeros(50, 2), spoiled(7, -torch.inf)), r"valid\[7\]: the target holds inf$"),
    "NaN in an array": (
        Listed([(np.zeros(2), 0), (np.array([0, np.nan]), 1)]),
        r"^mine\.py: valid\[1\]: the input holds NaN$",
    ),
    "NaN in a dictionary": (
        Listed([({"age": float("nan")}, 0)]),
        r"^mine\.py: valid\[0\]: the input\['age'\] holds NaN$",
    ),
    "ragged": (
        Listed([(torch.zeros(2), 0), (torch.zeros(3), 0)]),
        r"^mine\.py: valid: examples can't be stacked into a batch: RuntimeError: stack expects each tensor",
    ),
    "text": (Listed([(object(), 0)]), r"examples can't be stacked into a batch: TypeError: default_collate"),
}


@pytest.mark.parametrize("side", ["train", "valid"])
@pytest.mark.parametrize(("data", "message"), FAULTS.values(), ids=FAULTS)
def test_fault_in_one_line(data, message, side):
    with pytest.raises(TaskError, match=message.replace("valid", side)) as caught:
        check(data, side)
    assert "\n" not in str(caught.value)


def test_numbers_are_found_wherever_they_are():
    value = {"a": [1.0, torch.zeros(2)], "b": (np.float32(3), "text", 4)}
    assert [name for name, _ in numbers_in(value, "input")] == ["input['a'][0]", "input['a'][1]", "input['b'][0]"]


def test_shapes():
    assert shapes([torch.zeros(2, 3), {"x": 1}]) == "[(2, 3) float32, {'x': int}]"
