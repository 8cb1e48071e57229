import os
import pickle
import sys

import pytest
import torch

from thalweg.tasks import TaskError, check_task, load
from thalweg.tasks.user_file import load_file

GOOD = """
import torch
from torch import nn
from thalweg.tasks import Task

def model():
    return nn.Linear(3, 2)

def task():
    X = torch.randn(90, 3)
    y = (X[:, 0] > 0).long()
    return Task("mine", model, (X[:60], y[:60]), (X[60:], y[60:]), nn.functional.cross_entropy, batch_size=16)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write ``my_task.py`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def put(text, name="my_task.py"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return put


def test_a_good_file(write):
    task = load(write(GOOD))
    assert task.name == "mine" and task.source == "my_task.py" and len(task.train) == 60
    check_task(task)


def test_any_kind_of_path(write, tmp_path):
    name = write(GOOD)
    write(GOOD, "without_ending")
    for path in (tmp_path / name, str(tmp_path / name), f".{os.sep}{name}", "without_ending"):
        assert load(path).name == "mine"


def test_models_and_classes_of_the_file_can_be_pickled(write):
    text = GOOD.replace("def model():", "class Net(nn.Linear):\n    pass\n\ndef model():").replace(
        "return nn.Linear", "return Net"
    )
    task = load(write(text))
    copy = pickle.loads(pickle.dumps(task.model()))
    assert type(copy) is type(task.model())


def test_a_changed_file_is_read_again(write):
    load(write(GOOD))
    assert load(write(GOOD.replace('"mine"', '"ours"'))).name == "ours"


def test_dataclasses_and_neighbouring_files(write):
    write("WIDTH = 3\n", "my_neighbour_of_task.py")
    text = GOOD.replace(
        "def model():", "import dataclasses\n@dataclasses.dataclass\nclass C:\n    width: int\n\ndef model():"
    )
    text = text.replace("nn.Linear(3", "nn.Linear(C(__import__('my_neighbour_of_task').WIDTH).width")
    assert load(write(text)).model().in_features == 3


def test_main_guard_does_not_run(write):
    assert load(write(GOOD + "\nif __name__ == '__main__':\n    raise SystemExit(3)\n")).name == "mine"


def test_the_example_in_the_repository():
    from pathlib import Path

    path = Path(__file__).parents[2] / "examples" / "my_task.py"
    task = load(path)
    check_task(task)
    assert len(task.train) == 332 and len(task.valid) == 110
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        inputs, targets = task.train[step % 10 * 32 : step % 10 * 32 + 32]
        optimizer.zero_grad()
        task.loss(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        inputs, targets = task.valid[:]
        assert task.loss(model(inputs), targets) < 0.7


BROKEN = {
    "syntax error": ("x = 1\ndef task(:\n", r"my_task\.py:2: SyntaxError: invalid syntax"),
    "indentation": ("def task():\nreturn 1\n", r"my_task\.py:2: IndentationError: expected an indented block"),
    "binary": (b"x = 1\0\n", r"my_task\.py.*: .*null bytes"),
    "encoding": (b"# ok\nx = '\xff'\n", r"my_task\.py.*: SyntaxError: .*(utf-8|UTF-8)"),
    "raises at import": (
        "x = 1\n\nx = 1 / 0\n",
        r"my_task\.py:3: the file raised ZeroDivisionError: division by zero$",
    ),
    "missing import": (
        "import nowhere_to_be_found\n",
        r"my_task\.py:1: the file raised ModuleNotFoundError: No module",
    ),
    "exits": ("import sys\nsys.exit('bye')\n", r"my_task\.py:2: the file raised SystemExit: bye$"),
    "no task": ("def tusk():\n    pass\n", r"my_task\.py: defines no function task\(\)"),
    "task is a value": ("task = 3\n", r"my_task\.py: task is a value of type int, not a function"),
    "task() raises": ("def task():\n    y = {}\n    return y['a']\n", r"my_task\.py:3: task\(\) raised KeyError: 'a'$"),
    "deep in a library": (
        "import torch\n\ndef data():\n    return torch.load('no such file')\n\ndef task():\n    return data()\n",
        r"my_task\.py:4: task\(\) raised FileNotFoundError: ",
    ),
    "many lines": ("def task():\n    raise ValueError('a\\nb')\n", r"my_task\.py:2: task\(\) raised ValueError: a b$"),
    "task() wants more": (
        "def task(x):\n    return x\n",
        r"my_task\.py: task\(\) raised TypeError: task\(\) missing 1",
    ),
    "returns None": (
        "\n\ndef task():\n    pass\n",
        r"my_task\.py:3: task\(\) must return a thalweg\.tasks\.Task, not None$",
    ),
    "returns a model": (
        "from torch import nn\ndef task():\n    return nn.ReLU()\n",
        r"my_task\.py:2: task\(\) must return a thalweg\.tasks\.Task, not a value of type ReLU$",
    ),
    "unequal lengths": (
        GOOD.replace("y[:60])", "y[:50])"),
        r"my_task\.py:12: mine: train has 60 inputs but 50 targets$",
    ),
    "not data": (
        GOOD.replace("(X[:60], y[:60])", "7"),
        r"my_task\.py:12: mine: train must be a map-style dataset or a pair of tensors \(X, y\), not int$",
    ),
    "batch size 0": (
        GOOD.replace("=16", "=0"),
        r"my_task\.py:12: mine: batch_size must be a positive whole number, not 0$",
    ),
    "wrong goal": (GOOD.replace("batch_size=16", "goal='up'"), r"my_task\.py:12: mine: goal must be 'min' or 'max'"),
    "unknown argument": (
        GOOD.replace("batch_size", "batchsize"),
        r"my_task\.py:12: task\(\) raised TypeError: .*batchsize",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_one_line_says_what_and_where(write, text, message):
    with pytest.raises(TaskError, match=message) as caught:
        load(write(text))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(write, tmp_path):
    with pytest.raises(TaskError, match=r"^my_task\.py: there is no such file$"):
        load("my_task.py")
    with pytest.raises(TaskError, match=r"can't be read: Is a directory$"):
        load(tmp_path)


def test_a_failed_file_leaves_no_module_behind(write):
    before = set(sys.modules)
    with pytest.raises(TaskError):
        load_file(write("raise ValueError\n"))
    assert set(sys.modules) == before


def test_interrupt_is_not_swallowed(write):
    with pytest.raises(KeyboardInterrupt):
        load(write("raise KeyboardInterrupt\n"))
