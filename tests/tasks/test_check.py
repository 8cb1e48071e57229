"""Every way in which a task can be wrong gives one line that names it; a traceback is never needed to find the fault."""

import dataclasses
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.tasks import Task, TaskError, check_task, load


def make(**changes):
    draws = torch.Generator().manual_seed(0)
    X = torch.randn(200, 3, generator=draws)
    y = torch.arange(200) % 4
    settings = {
        "name": "mine",
        "model": lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)),
        "train": (X[:150], y[:150]),
        "valid": (X[150:], y[150:]),
        "loss": F.cross_entropy,
        "metric": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean(),
        "goal": "max",
        "batch_size": 32,
    }
    return Task(**settings | changes)


def regression(**changes):
    X = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    y = X.sum(1, keepdim=True)
    settings = {"model": lambda: nn.Linear(3, 1), "loss": F.mse_loss, "metric": None, "goal": "min"}
    return make(**settings | {"train": (X, y), "valid": (X, y)} | changes)


def test_good_tasks_pass():
    assert check_task(make()) is None
    assert check_task(regression()) is None


@pytest.mark.parametrize(
    "metric",
    [
        lambda o, t: 1,
        lambda o, t: 0.5,
        lambda o, t: np.float32(0.5),
        lambda o, t: np.array([0.5]),
        lambda o, t: torch.tensor([0.5]),
        lambda o, t: True,
    ],
)
def test_any_single_number_is_a_metric(metric):
    check_task(make(metric=metric))


def test_random_state_stays_as_it_was():
    torch.manual_seed(123)
    random.seed(5)
    before = torch.get_rng_state()
    check_task(make())
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TaskError):
        check_task(make(metric=lambda o, t: torch.rand(3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_works_where_gradients_are_switched_off():
    with torch.no_grad():
        check_task(make())
        assert not torch.is_grad_enabled()


def test_datas_smallest_and_largest_targets_are_tried():
    """One wrong label among 5,000 is found, wherever it stands."""
    for wrong in (4, -7):
        y = torch.zeros(5000, dtype=torch.int64)
        y[3333] = wrong
        with pytest.raises(
            TaskError, match=rf"mine: loss\(outputs, targets\) raised IndexError: Target {wrong} is out of"
        ):
            check_task(make(train=(torch.zeros(5000, 3), y)))


class Shared:
    """Gives the same model at every call."""

    def __init__(self):
        self.model = nn.Linear(3, 4)

    def __call__(self):
        return self.model


class Frozen(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)
        self.requires_grad_(False)


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x).detach()


class Stranger(nn.Module):
    """Its parameter is never used, but the outputs need gradients."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.zeros(len(x), 4, requires_grad=True)


class Wild(nn.Module):
    """A finite output whose gradient is not: sqrt at 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return x.new_zeros(len(x), 4) + self.weight.abs().sqrt()


def raises(*_):
    raise RuntimeError("over\nhere")


def numpy_loss(outputs, targets):
    return float(F.cross_entropy(outputs, targets))


FAULTS = {
    "batch too large": (
        lambda: make(batch_size=151),
        r"^mine: batch_size is 151, but train has 150 examples$",
    ),
    "eval_every": (
        lambda: make(eval_every=0),
        r"^mine: eval_every must be a positive whole number or None, not 0$",
    ),
    "target": (lambda: make(target=float("nan")), r"^mine: target must be a finite number or None, not nan$"),
    "target text": (lambda: make(target="0.9"), r"^mine: target must be a finite number or None, not '0.9'$"),
    "model() raises": (
        lambda: make(model=raises),
        r"^mine \(test_check\.py:\d+\): model\(\) raised RuntimeError: over here$",
    ),
    "model() wants more": (
        lambda: make(model=nn.Linear),
        r"model\(\) raised TypeError: .*missing 2 required positional arguments",
    ),
    "model is a module": (
        lambda: make(model=nn.Linear(3, 4)),
        r"model\(\) raised TypeError: .*forward\(\) missing 1",
    ),
    "not a module": (
        lambda: make(model=lambda: F.relu),
        r"^mine: model\(\) must return a torch\.nn\.Module, not function$",
    ),
    "class instead of module": (
        lambda: make(model=lambda: nn.ReLU),
        r"^mine: model\(\) must return a torch\.nn\.Module, not type$",
    ),
    "no parameters": (lambda: make(model=nn.ReLU), r"^mine: model\(\) has no trainable parameters$"),
    "frozen": (lambda: make(model=Frozen), r"^mine: model\(\) has no trainable parameters$"),
    "lazy": (lambda: make(model=lambda: nn.LazyLinear(4)), r"^mine: model\(\) has lazy parameters without a shape"),
    "same model again": (
        lambda: make(model=Shared()),
        r"^mine: model\(\) must build a fresh model at every call, but two calls share parameters$",
    ),
    "wrong input size": (
        lambda: make(model=lambda: nn.Linear(5, 4)),
        r"^mine.*: model\(inputs\) raised RuntimeError: mat1 and mat2 .* \(inputs \(\d+, 3\) float32\)$",
    ),
    "target out of range": (
        lambda: make(model=lambda: nn.Linear(3, 2)),
        r"raised IndexError: Target [23] is out of bounds\. \(outputs \(\d+, 2\) float32, targets \(\d+,\) int64\)$",
    ),
    "targets of the wrong kind": (
        lambda: make(train=(torch.zeros(64, 3), torch.zeros(64))),
        r"loss\(outputs, targets\) raised RuntimeError: .* \(outputs \(32, 4\) float32, targets \(32,\) float32\)$",
    ),
    "targets of the wrong shape": (
        lambda: make(train=(torch.zeros(64, 3), torch.zeros(64, 2, dtype=torch.int64))),
        r"loss\(outputs, targets\) raised RuntimeError: .* \(outputs \(\d+, 4\) float32, targets \(\d+, 2\) int64\)$",
    ),
    "silent broadcast": (
        lambda: regression(train=(torch.zeros(64, 3), torch.zeros(64))),
        r"raised UserWarning: Using a target size .* \(outputs \(32, 1\) float32, targets \(32,\) float32\)$",
    ),
    "loss raises": (
        lambda: make(loss=raises),
        r"^mine \(test_check\.py:\d+\): loss\(outputs, targets\) raised RuntimeError: over here \(outputs ",
    ),
    "loss a float": (
        lambda: make(loss=numpy_loss),
        r"^mine: loss\(outputs, targets\) must return a scalar tensor, not float$",
    ),
    "loss not scalar": (
        lambda: make(loss=lambda o, t: F.cross_entropy(o, t, reduction="none")),
        r"^mine: loss\(outputs, targets\) must be a scalar, not of shape \(\d+,\) \(outputs \(\d+, 4\)",
    ),
    "detached": (
        lambda: make(model=lambda: Detached(3, 4)),
        r"^mine: loss\(outputs, targets\) is not differentiable: it doesn't depend on the parameters$",
    ),
    "loss is the error rate": (
        lambda: make(loss=lambda o, t: (o.argmax(1) != t).float().mean()),
        r"^mine: loss\(outputs, targets\) is not differentiable",
    ),
    "parameters unused": (
        lambda: make(model=Stranger),
        r"^mine: the loss has no gradient for any parameter of model\(\)$",
    ),
    "loss NaN": (
        lambda: make(loss=lambda o, t: (o.sum() * 0).log().log()),
        r"^mine: loss\(outputs, targets\) is nan at the start \(outputs ",
    ),
    "loss inf": (lambda: make(loss=lambda o, t: o.sum() + torch.inf), r"^mine: loss\(.*\) is inf at the start"),
    "gradient NaN": (
        lambda: make(model=Wild),
        r"^mine: the loss is finite at the start but its gradient for weight is not$",
    ),
    "metric raises": (
        lambda: make(metric=raises),
        r"^mine \(test_check\.py:\d+\): metric\(outputs, targets\) on valid raised RuntimeError: over here \(outputs ",
    ),
    "metric a vector": (
        lambda: make(metric=lambda o, t: o.argmax(1) == t),
        r"^mine: metric\(outputs, targets\) must return one number, not Tensor of shape \(\d+,\)$",
    ),
    "metric a text": (lambda: make(metric=lambda o, t: "0.5"), r"must return one number, not str$"),
    "metric None": (lambda: make(metric=lambda o, t: None), r"must return one number, not NoneType$"),
    "metric complex": (
        lambda: make(metric=lambda o, t: torch.tensor(1j)),
        r"must return one number, not Tensor of shape",
    ),
    "metric NaN": (
        lambda: make(metric=lambda o, t: float("nan")),
        r"^mine: metric\(outputs, targets\) on valid is nan at the start",
    ),
    "valid has another shape": (
        lambda: make(valid=(torch.zeros(60, 5), torch.zeros(60, dtype=torch.int64))),
        r"model\(inputs\) on valid raised RuntimeError: .* \(inputs \(32, 5\) float32\)$",
    ),
    "valid has other classes": (
        lambda: make(valid=(torch.zeros(60, 3), torch.full((60,), 9)), metric=None, goal="min"),
        r"loss\(outputs, targets\) on valid raised IndexError: Target 9 is out of bounds",
    ),
}


@pytest.mark.parametrize(("build", "message"), FAULTS.values(), ids=FAULTS)
def test_fault_in_one_line(build, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces lazy modules and odd shapes
        with pytest.raises(TaskError, match=message) as caught:
            check_task(build())
    assert "\n" not in str(caught.value)


def test_a_fault_in_a_file_names_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from thalweg.tasks import Task\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return self.twice(super().forward(x))\n"
        "    def twice(self, x):\n"
        "        return x @ torch.zeros(7, 7)\n"
        "def task():\n"
        "    data = torch.zeros(80, 3), torch.zeros(80, dtype=torch.int64)\n"
        "    return Task('mine', lambda: Net(3, 4), data, data, nn.functional.cross_entropy)\n"
    )
    with pytest.raises(TaskError, match=r"^my_task\.py:8: model\(inputs\) raised RuntimeError: mat1 and mat2 shapes"):
        check_task(load("my_task.py"))


def test_the_cause_is_kept_for_debugging():
    with pytest.raises(TaskError) as caught:
        check_task(make(loss=raises))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_task_itself_is_not_changed():
    task = make()
    copy = dataclasses.replace(task)
    check_task(task)
    assert torch.equal(task.train.tensors[0], copy.train.tensors[0])


def test_a_batch_size_that_the_model_can_not_train_on():
    """Batch normalization needs two examples; the trial batch of 32 alone wouldn't show it."""
    message = (
        r"^mine.*: model\(inputs\) with batch_size=1 raised ValueError: Expected more than 1 value .*\(inputs \(1, 3\)"
    )
    with pytest.raises(TaskError, match=message):
        check_task(make(batch_size=1))
    check_task(make(batch_size=2))
    check_task(regression(batch_size=1))


def test_targets_of_another_shape_in_the_validation_data_alone():
    X = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(TaskError, match=r"loss\(outputs, targets\) on valid raised UserWarning: Using a target size"):
        check_task(regression(valid=(X, X.sum(1))))
