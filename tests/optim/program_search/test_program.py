"""Programs: text, types, dead lines, and the hash of what they compute."""

from __future__ import annotations

import pytest

from thalweg.optim import Program
from thalweg.optim.program_search import ADAMW, FUNCTIONS, LION, RAW_LION, Line


@pytest.mark.parametrize("program", [ADAMW, LION, RAW_LION])
def test_text_and_back(program: Program) -> None:
    assert Program.parse(str(program)) == program and program.check() and program.problem is None
    assert Program.parse(f"{program}\nreturn update, m, v") == program == Program.parse(program.to_string())


def test_lines_of_the_start() -> None:
    assert len(ADAMW) == 9 and len(RAW_LION) == 12
    assert ADAMW.lines[1] == Line("m", "interp", ("g", "m", 0.9)) and str(ADAMW.lines[4]) == "u = m / s"
    assert Program.parse("x = pi()\ny = -0.5 * x\nupdate = g - y").lines[1].arguments == (-0.5, "x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("update = eval(g)", "line 1: unknown function 'eval' (choose from pi, e, eps, abs, "),
        ("update = (g + m) * lr", "line 1: 'g + m' is neither a variable nor a number (one function a line)"),
        ("import os", "line 1: 'import os' isn't an assignment to one variable"),
        ("update = g.real", "line 1: 'g.real' isn't one function of variables and numbers"),
        ("update = g\n", "line 1: 'g' isn't one function of variables and numbers"),
        ("x, y = sqrt(g)", "line 1: 'x, y = sqrt(g)' isn't an assignment to one variable"),
        ("u = g * lr\nupdate = sqrt(g, m)", "line 2: sqrt takes 1 arguments, not 2"),
        ("update = sqrt('g')", "line 1: \"'g'\" is neither a variable nor a number (one function a line)"),
        ("update = g * lr\nreturn g", "line 2: a program returns update, m, v"),
        ("update = g * * lr", "line 1: invalid syntax"),
    ],
)
def test_text_that_is_no_program(source: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Program.parse(source)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("u = clip(g, w)\nupdate = u * lr", "line 1: clip can't take tensor, tensor"),
        ("c = clip(lr, 1.0)\nupdate = g * c", "line 1: clip can't take scalar, scalar"),
        ("update = interp(g, m, v)", "line 1: interp can't take tensor, tensor, tensor"),
        ("update = g * rate", "line 1: rate isn't defined there"),
        ("update = x * lr\nx = sqrt(g)", "line 1: x isn't defined there"),
        ("update = norm(g)", "update must be returned as a tensor, but it is a scalar"),
        ("update = g * lr\nm = dot(g, w)", "m must be returned as a tensor, but it is a scalar"),
        ("update = g * lr\nv = lr + 1.0", "v must be returned as a tensor, but it is a scalar"),
        ("m = sqrt(g)", "update must be returned as a tensor, but it is never assigned"),
        ("n = norm(lr)\nupdate = g * n", "line 1: norm can't take scalar"),
    ],
)
def test_programs_that_cant_run(source: str, problem: str) -> None:
    program = Program.parse(source)
    assert not program.check() and program.problem == problem
    with pytest.raises(ValueError, match=r"line|must be"):
        program.functional_hash()


def test_dead_lines_of_one_call_and_of_all_calls() -> None:
    assert RAW_LION.without_dead_code() == RAW_LION  # m is returned, so what it is made of stays
    kept = RAW_LION.simplified()
    assert [str(line) for line in RAW_LION.lines if line not in kept.lines] == ["m = cosh(u)"]  # but never read again
    program = Program.parse("x = cos(g)\nx = sin(w)\nm = m + g\nv = v + m\nupdate = m * lr\ny = sqrt(update)")
    assert str(program.without_dead_code()) == "m = m + g\nv = v + m\nupdate = m * lr"
    assert str(program.simplified()) == "m = m + g\nupdate = m * lr"
    swapped = Program.parse("update = m * lr\nm = v + g\nv = m * 0.5")  # each buffer feeds the other, a call later
    assert swapped.simplified() == swapped


def test_hash_knows_what_is_the_same() -> None:
    lines = str(ADAMW).splitlines()
    same = [
        str(ADAMW).replace("g2", "square_of_g").replace("wd", "decay"),
        "\n".join(["dead = cos(w)", *lines]),
        "\n".join([lines[6 - 1], *lines[:5], *lines[6:]]),  # weight decay first
        str(ADAMW).replace("w * 0.01", "0.010 * w").replace("u + wd", "wd + u"),
    ]
    other = [
        str(ADAMW).replace("0.9)", "0.91)"),
        str(ADAMW).replace("m / s", "s / m"),
        str(ADAMW).replace("interp(g, m", "interp(m, g"),
        str(ADAMW).replace("square(g)", "cube(g)"),
        str(ADAMW).replace("w * 0.01", "w * -0.01"),
    ]
    own = ADAMW.functional_hash()
    assert {Program.parse(source).functional_hash() for source in same} == {own}
    hashes = {Program.parse(source).functional_hash() for source in other}
    assert len(hashes) == len(other) and own not in hashes
    assert RAW_LION.functional_hash() == RAW_LION.simplified().functional_hash()
    shuffled = ["g2 = square(g)", "wd = w * 0.01", *lines[1:5], *lines[6:]]
    assert Program.parse("\n".join(shuffled)).functional_hash() == own


def test_the_functions_of_the_paper() -> None:
    arities = [len(function.slots) for function in FUNCTIONS.values()]
    assert [arities.count(n) for n in range(4)] == [3, 30, 8, 1]
    assert {name for name, f in FUNCTIONS.items() if f.scope != "element"} == {
        "norm", "global_norm", "dot", "cosine_sim", "clip",
    }  # fmt: skip
    assert ADAMW.is_elementwise and not RAW_LION.is_elementwise
