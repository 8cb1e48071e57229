import pytest
import torch

from thalweg.race.outcome import Diverged, one_line, outcome_of


def caught(action):
    try:
        action()
    except Exception as error:
        return outcome_of(error)
    raise AssertionError("nothing was raised")


def huge():
    torch.empty(2**60, dtype=torch.uint8)


def test_the_place_is_the_users_line_not_torchs():
    outcome, message = caught(lambda: torch.nn.Linear(3, 2)(torch.ones(4, 5)))
    assert outcome == "raised"
    assert message.startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert "(test_outcome.py:" in message


def test_memory():
    assert outcome_of(MemoryError())[0] == "out_of_memory"
    assert outcome_of(torch.OutOfMemoryError("CUDA out of memory."))[0] == "out_of_memory"
    outcome, message = caught(huge)
    assert outcome == "out_of_memory"
    assert "test_outcome.py" in message
    assert outcome_of(RuntimeError("something else"))[0] == "raised"


def test_diverged():
    assert outcome_of(Diverged("loss is nan at step 3")) == ("diverged", "loss is nan at step 3")


@pytest.mark.parametrize("text", ["a\nb\tc", "x" * 1000])
def test_one_line(text):
    assert "\n" not in one_line(text)
    assert len(one_line(text)) <= 300
