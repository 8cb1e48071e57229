import pickle
import subprocess
import sys

import pytest
import torch

from thalweg.tasks import TaskError, check_task, describe, load, names


def test_names():
    assert names() == ["deep-linear", "digits", "docs-lm", "mnist5k"]


@pytest.mark.parametrize("name", names())
def test_description_is_one_short_line(name):
    assert 20 < len(describe(name)) <= 110
    assert "\n" not in describe(name)


def test_listing_loads_neither_torch_nor_data():
    code = (
        "import sys, thalweg.tasks as t; [t.describe(n) for n in t.names()]; "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'mlxtend', 'pydoc_data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_task_loads_only_its_own_data():
    code = (
        "import sys, thalweg.tasks as t; t.load('deep-linear'); "
        "print([m for m in ('sklearn', 'mlxtend', 'pydoc_data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(TaskError, match=r"unknown task 'mnist'; did you mean 'mnist5k'\? \(choose from deep-linear, "):
        load("mnist")
    with pytest.raises(ValueError, match="unknown task 'digit'; did you mean 'digits'"):
        describe("digit")
    with pytest.raises(TaskError, match="or give the path of a Python file that defines task"):
        load("zzz")


def test_lazy_names_are_real_and_others_are_errors():
    import thalweg.tasks

    assert thalweg.tasks.Task.__module__ == "thalweg.tasks.task"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = thalweg.tasks.nothing


@pytest.fixture(scope="module", params=names())
def task(request):
    return load(request.param)


def test_passes_the_check(task):
    check_task(task)


def test_is_named_as_it_is_loaded(task):
    assert task.name in names() and task.source == task.name


def test_can_be_sent_to_another_process(task):
    copy = pickle.loads(pickle.dumps(task))
    assert torch.equal(copy.valid.tensors[0], task.valid.tensors[0])
    check_task(copy)


def test_a_seed_gives_the_same_model(task):
    def build(seed):
        torch.manual_seed(seed)
        return list(task.model().parameters())

    assert all(torch.equal(a, b) for a, b in zip(build(1), build(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(build(1), build(2), strict=True))


def test_training_improves_the_metric_on_held_out_data(task):
    torch.manual_seed(0)
    model = task.model()
    inputs, targets = (tensor[:512] for tensor in task.valid.tensors)
    metric = task.metric or task.loss

    def evaluate():
        model.eval()
        with torch.no_grad():
            value = float(metric(model(inputs), targets))
        model.train()
        return value

    before = evaluate()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(200 if task.name == "deep-linear" else 40):
        batch = torch.randint(len(task.train), (task.batch_size,))
        optimizer.zero_grad()
        task.loss(model(task.train.tensors[0][batch]), task.train.tensors[1][batch]).backward()
        optimizer.step()
    after = evaluate()
    assert task.better(after, before)
    assert after > 0.6 if task.goal == "max" else after < 0.8 * before
