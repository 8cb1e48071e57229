import torch

from thalweg.tasks.fault import LONGEST, one_line, user_line


def caught(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_one_line_has_no_line_breaks_and_an_end():
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert one_line(StopIteration()) == "StopIteration"
    long = one_line(ValueError("x" * 5000))
    assert len(long) == len("ValueError: ") + LONGEST and long.endswith("...")


def test_innermost_line_of_the_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n\ndef outer():\n    return inner()\n\ndef inner():\n    return torch.zeros(2).view(3)\n"
    )
    scope: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    error = caught(scope["outer"])
    assert user_line(error, str(file)) == f"{file}:7"


def test_the_file_alone_where_no_line_of_it_was_passed():
    assert user_line(caught(int, "x"), "elsewhere.py") == "elsewhere.py"


def test_a_task_made_in_a_session_names_the_callers_line():
    error = caught(lambda: torch.zeros(2).view(3))
    line = user_line(error, "mine")
    assert line.startswith("mine (test_fault.py:") and line.endswith(")")
