"""Update rules as straight-line programs: text, types, and which lines matter (arXiv:2302.06675)."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from thalweg.optim.program_search.functions import FUNCTIONS, INFIX, Kind

INPUTS: dict[str, Kind] = {"w": "tensor", "g": "tensor", "m": "tensor", "v": "tensor", "lr": "scalar"}
"""What a program starts from: weights, gradient, two buffers (zero at the start of training), and the scheduled learning rate."""

OUTPUTS = ("update", "m", "v")
"""What it returns: the step that is subtracted from the weights, and both buffers."""

Argument = str | float

_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}


@dataclass(frozen=True)
class Line:
    """One assignment ``target = function(arguments)``; an argument is a variable's name or a constant."""

    target: str
    function: str
    arguments: tuple[Argument, ...]

    @property
    def reads(self) -> set[str]:
        """The variables among its arguments."""
        return {a for a in self.arguments if isinstance(a, str)}

    def __str__(self) -> str:
        shown = [a if isinstance(a, str) else repr(a) for a in self.arguments]
        if self.function in INFIX:
            return f"{self.target} = {shown[0]} {INFIX[self.function]} {shown[1]}"
        return f"{self.target} = {self.function}({', '.join(shown)})"


@dataclass(frozen=True)
class Program:
    """One optimizer step as a list of assignments; immutable.

    It starts from ``w`` (weights), ``g`` (gradient), ``m`` and ``v`` (buffers, zero at first) and ``lr`` (the scheduled learning
    rate), and returns ``update``, ``m`` and ``v``; weights then become w - update. Variables are tensors of the weights' shape, or
    one number for each parameter tensor; constants are numbers. The functions are those of
    ``thalweg.optim.program_search.FUNCTIONS``, the first four operations written between their arguments.

    Args:
        lines: the assignments; :meth:`parse` reads them from text.

    The paper: arXiv:2302.06675.

    Example:
        >>> from thalweg.optim import Program
        >>> program = Program.parse('''
        ... c = interp(g, m, 0.9)
        ... dead = cos(w)
        ... m = interp(g, m, 0.99)
        ... s = sign(c)
        ... update = s * lr
        ... ''')
        >>> print(program.simplified())
        c = interp(g, m, 0.9)
        m = interp(g, m, 0.99)
        s = sign(c)
        update = s * lr
        >>> program.functional_hash() == program.simplified().functional_hash()
        True
    """

    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, source: str) -> Program:
        """Read a program: one assignment a line, one function each; ``return update, m, v`` at the end may be left out.

        The text is taken apart, never evaluated: nothing but the language's functions can be called.

        Raises:
            ValueError: a line that isn't such an assignment, an unknown function, or one with too many or too few arguments. Types
                and unknown variables are found by :meth:`check`.
        """
        try:
            body = ast.parse("\n".join(line.strip() for line in source.strip().splitlines())).body
        except SyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.msg}") from None
        if body and isinstance(body[-1], ast.Return):
            if ast.unparse(body[-1]).removeprefix("return ").strip("()") != ", ".join(OUTPUTS):
                raise ValueError(f"line {body[-1].lineno}: a program returns {', '.join(OUTPUTS)}")
            body.pop()
        return cls(tuple(_line(statement) for statement in body))

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines))

    to_string = __str__

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def problem(self) -> str | None:
        """What is wrong with the program, found by its types alone; None for a valid one."""
        kinds = dict(INPUTS)
        for number, line in enumerate(self.lines, 1):
            unknown = sorted(line.reads - set(kinds))
            if unknown:
                return f"line {number}: {unknown[0]} isn't defined there"
            given: list[Kind] = [kinds[a] if isinstance(a, str) else "scalar" for a in line.arguments]
            kind = FUNCTIONS[line.function].kind(given)
            if kind is None:
                return f"line {number}: {line.function} can't take {', '.join(given) or 'nothing'}"
            kinds[line.target] = kind
        for name in OUTPUTS:
            if kinds.get(name) != "tensor":
                return f"{name} must be returned as a tensor, but it is {'a scalar' if name in kinds else 'never assigned'}"
        return None

    def check(self) -> bool:
        """Whether the program can run: every variable defined, every argument of a type that fits, three tensors returned."""
        return self.problem is None

    @property
    def is_elementwise(self) -> bool:
        """Whether each number can be worked out alone, without norms or products over whole tensors."""
        return all(FUNCTIONS[line.function].scope == "element" for line in self.lines)

    def without_dead_code(self) -> Program:
        """Only the lines on which what it returns depends."""
        return self._keeping(set(OUTPUTS))[0]

    def simplified(self) -> Program:
        """Only the lines on which the weights of any step depend.

        A buffer that the next call assigns before reading it is no output: lines that only it needs go as well.
        """
        live = {"update"}
        while True:
            program, read = self._keeping(live)
            needed = live | (read & {"m", "v"})
            if needed == live:
                return program
            live = needed

    def functional_hash(self) -> str:
        """Equal for programs that do the same by the same operations: names, dead lines and the order of independent lines, or of the
        arguments of commuting functions, make no difference."""
        from thalweg.optim.program_search.hashing import functional_hash

        return functional_hash(self)

    def _keeping(self, outputs: Iterable[str]) -> tuple[Program, set[str]]:
        """The lines that these outputs need, and the inputs that those read."""
        live, kept = set(outputs), []
        for line in reversed(self.lines):
            if line.target in live:
                live = (live - {line.target}) | line.reads
                kept.append(line)
        return Program(tuple(reversed(kept))), live


def _line(statement: ast.stmt) -> Line:
    where = f"line {statement.lineno}"
    if not (
        isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    ):
        raise ValueError(f"{where}: {ast.unparse(statement)!r} isn't an assignment to one variable")
    value = statement.value
    if isinstance(value, ast.BinOp) and type(value.op) in _OPERATORS:
        name, given = _OPERATORS[type(value.op)], [value.left, value.right]
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and not value.keywords:
        name, given = value.func.id, value.args
    else:
        raise ValueError(f"{where}: {ast.unparse(value)!r} isn't one function of variables and numbers")
    if name not in FUNCTIONS:
        raise ValueError(f"{where}: unknown function {name!r} (choose from {', '.join(FUNCTIONS)})")
    if len(given) != len(FUNCTIONS[name].slots):
        raise ValueError(f"{where}: {name} takes {len(FUNCTIONS[name].slots)} arguments, not {len(given)}")
    return Line(statement.targets[0].id, name, tuple(_argument(node, where) for node in given))


def _argument(node: ast.expr, where: str) -> Argument:
    if isinstance(node, ast.Name):
        return node.id
    factor = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        factor, node = -1.0, node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return factor * float(node.value)  # type: ignore[arg-type]
    raise ValueError(f"{where}: {ast.unparse(node)!r} is neither a variable nor a number (one function a line)")
