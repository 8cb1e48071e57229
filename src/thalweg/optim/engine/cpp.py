"""Passes as C++: a recorded pass over one tensor becomes a loop, or several with sums in between.

A pass does the same to every parameter, so what is compiled is one loop, whatever the number of parameters and their shapes: half a
second of g++ instead of tens for a function that names each tensor. What isn't a matter of single elements, of numbers, and of sums
over all elements (rows, random numbers, unknown operators) has no such form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import torch
from torch.fx import Graph, Node

from thalweg.optim.engine.staging import Array, NoLoopError, Staging, is_number, name_of

_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bfloat16",
    torch.float16: "_Float16",
    torch.bool: "bool",
}
"""Types in C++. Numbers of the 16-bit types are read and written, but not calculated with."""

_HALVES = (torch.bfloat16, torch.float16)

_FORMS: dict[str, str] = {
    "abs": "std::abs({0})",
    "add": "{0} + {1}",
    "bitwise_and": "{0} & {1}",
    "bitwise_not": "!{0}",
    "bitwise_or": "{0} | {1}",
    "clamp_max": "upto({0}, {1})",
    "clamp_min": "from({0}, {1})",
    "cos": "std::cos({0})",
    "div": "{0} / {1}",
    "exp": "std::exp({0})",
    "log": "std::log({0})",
    "logical_and": "{0} & {1}",
    "logical_not": "!{0}",
    "logical_or": "{0} | {1}",
    "maximum": "larger({0}, {1})",
    "minimum": "smaller({0}, {1})",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "pow": "std::pow({0}, {1})",
    "reciprocal": "1 / {0}",
    "relu": "{0} < 0 ? 0 : {0}",
    "rsqrt": "1 / std::sqrt({0})",
    "rsub": "{1} - {0}",
    "sigmoid": "1 / (1 + std::exp(-{0}))",
    "sign": "sign({0})",
    "sin": "std::sin({0})",
    "sqrt": "std::sqrt({0})",
    "square": "{0} * {0}",
    "sub": "{0} - {1}",
    "tanh": "std::tanh({0})",
}
"""Operators whose arguments are converted to the type of the result."""

_COMPARISONS = {"eq": "==", "ge": ">=", "gt": ">", "le": "<=", "lt": "<", "ne": "!="}

_COPIES = ("_to_copy", "alias", "clone", "detach", "expand", "view")

_CONSTANTS = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}
_FILLED = {"full_like": 1, "new_full": 2, "scalar_tensor": 0, "full": 1}  # place of the number among the arguments

_POWERS = {2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", 0.5: "std::sqrt({0})", -0.5: "1 / std::sqrt({0})", -1.0: "1 / {0}"}


def source_of(graph: Graph, arrays: Sequence[Array], values: str) -> str:
    """The program ``run(count, lengths, order, shared, pointers, values, threads)``; what these are it says itself.

    Args:
        graph: of functional ATen operators, recorded on tensors of one shape.
        arrays: what it reads and writes.
        values: name of its input that is a vector of hyper-parameters, float64.

    Raises:
        NoLoopError: it is something else than loops over elements.
    """
    return _Writer(Staging(graph, arrays), values).program()


class _Writer:
    def __init__(self, staging: Staging, values: str) -> None:
        self._staging, self._values = staging, values

    def program(self) -> str:
        """The whole program."""
        staging = self._staging
        loops = range(staging.count)
        return Template(resources.files(__package__).joinpath("loops.cpp").read_text()).substitute(
            sums=len(staging.sums),
            count=staging.count,
            stored=sum(_bytes(node) for node in staging.stored),
            stages=", ".join(f"stage{loop}" for loop in loops),
            storing=", ".join(f"storing{loop}" for loop in loops),
            functions="".join(self._function(loop, stored) for stored in (False, True) for loop in loops),
        )

    def _function(self, loop: int, stored: bool) -> str:
        """One loop; if asked for, one that stores what later loops need again, and reads what earlier ones have stored."""
        staging = self._staging
        beside = {node: f"w{k}" for k, node in enumerate(staging.stored)} if stored else {}
        places = {**staging.read, **staging.kept(loop)}
        sources = {node: f"a{place}" for node, place in places.items()}
        sources |= {node: beside[node] for node in staging.stored_before(loop) if stored}
        reads: list[str] = []
        numbers: list[str] = []
        lines: list[str] = []
        needed = staging.needed(loop, stored)
        for node in needed:
            declared = f"const {_type(node.meta['val'].dtype)} {_variable(node)}"
            if node in sources:
                reads.append(f"{declared} = {sources[node]}[i];")
            elif node in staging.sums:
                numbers.append(f"{declared} = t[{staging.sums.index(node)}];")
            elif node.op != "placeholder":
                (numbers if is_number(node) else lines).append(f"{declared} = {self._expression(node)};")
        sums = {staging.sums.index(node): node for node in staging.sums_of(loop)}
        lines += [f"s{k} += {_as(node.args[0], node.meta['val'].dtype)};" for k, node in sums.items()]
        lines += [f"{beside[node]}[i] = {_variable(node)};" for node in staging.stored_in(loop) if stored]
        written = staging.written_in(loop)
        lines += [f"a{place}[i] = {_as(staging.results[place], staging.arrays[place].dtype)};" for place in written]
        used = {*written, *(places[node] for node in needed if node in places)}
        return _STAGE.substitute(
            name=f"{'storing' if stored else 'stage'}{loop}",
            pointers=_lines(2, map(self._array, sorted(used))),
            storage=_lines(2, self._storage() if stored else ()),
            numbers=_lines(2, numbers),
            start=_lines(4, (f"{_type(node.meta['val'].dtype)} s{k} = 0;" for k, node in sums.items())),
            reduction=f" reduction(+:{', '.join(f's{k}' for k in sums)})" if sums else "",
            body=_lines(6, (*reads, *lines)),
            end=_lines(4, (f"into[{k}] += s{k};" for k in sums)),
        )

    def _array(self, place: int) -> str:
        type_ = _type(self._staging.arrays[place].dtype)
        return f"{type_}* a{place} = ({type_}*)q[{place} * stride];"

    def _storage(self) -> Iterator[str]:
        """What is stored lies one after the other, the widest numbers first."""
        before = 0
        for k, node in sorted(enumerate(self._staging.stored), key=lambda item: -_bytes(item[1])):
            type_ = _type(node.meta["val"].dtype)
            yield f"{type_}* w{k} = ({type_}*)(w + {before} * length);"
            before += _bytes(node)

    def _expression(self, node: Node) -> str:
        name, dtype = name_of(node), node.meta["val"].dtype
        args: list[Any] = list(node.args)
        kwargs = {key: value for key, value in node.kwargs.items() if value is not None}
        if name == "select":
            if args[0].name != self._values or args[1] != 0:
                raise NoLoopError("elements picked out")
            return f"v[{int(args[2])}]"
        if name in _CONSTANTS or name in _FILLED:
            number = _CONSTANTS[name] if name in _CONSTANTS else args[_FILLED[name]]
            return f"({_type(dtype)})length" if number == self._staging.shape.numel() else _literal(number, dtype)
        if name in _COPIES:
            return _as(args[0], dtype)
        if dtype in _HALVES:
            raise NoLoopError(f"{name} in {dtype}")
        if name in _COMPARISONS:
            wide = torch.result_type(*[arg.meta["val"] if isinstance(arg, Node) else arg for arg in args[:2]])
            return f"{_as(args[0], wide)} {_COMPARISONS[name]} {_as(args[1], wide)}"
        if name == "where":
            return f"{_variable(args[0])} ? {_as(args[1], dtype)} : {_as(args[2], dtype)}"
        if name == "pow" and isinstance(args[1], int | float) and args[1] in _POWERS:
            return _POWERS[args[1]].format(_as(args[0], dtype))
        if name == "clamp":
            low, high = (*args[1:], None, None)[:2]
            bounds = (("from", kwargs.pop("min", low)), ("upto", kwargs.pop("max", high)))
            found = _as(args[0], dtype)
            for function, bound in bounds:
                if bound is not None:
                    found = f"{function}({found}, {_as(bound, dtype)})"
            return _plain(found, kwargs)
        given = [_as(arg, dtype) for arg in args]
        if name in ("add", "sub", "rsub"):
            scaled = 0 if name == "rsub" else 1  # what alpha multiplies
            alpha = kwargs.pop("alpha", args[2] if len(args) > 2 else 1)
            if alpha != 1:
                given[scaled] = f"({_literal(alpha, dtype)} * {given[scaled]})"
        elif name == "lerp":
            return _plain(f"mixed({', '.join(given)})", kwargs)
        elif name in ("addcmul", "addcdiv"):
            value = _literal(kwargs.pop("value", 1), dtype)
            return _plain(f"{given[0]} + {value} * {given[1]} {'*' if name == 'addcmul' else '/'} {given[2]}", kwargs)
        if name not in _FORMS:
            raise NoLoopError(f"operator {node.target}")
        return _plain(_FORMS[name].format(*given), kwargs)


def _plain(expression: str, kwargs: Mapping[str, Any]) -> str:
    """``expression``, if nothing else was asked for."""
    if kwargs:
        raise NoLoopError(f"option {next(iter(kwargs))}")
    return expression


def _bytes(node: Node) -> int:
    return node.meta["val"].element_size()


def _variable(node: Node) -> str:
    return f"x_{node.name}"


def _as(item: Any, dtype: torch.dtype) -> str:
    """A node or a number, converted."""
    if not isinstance(item, Node):
        return _literal(item, dtype)
    return _variable(item) if item.meta["val"].dtype == dtype else f"({_type(dtype)}){_variable(item)}"


def _type(dtype: torch.dtype) -> str:
    if dtype not in _TYPES:
        raise NoLoopError(f"numbers of {dtype}")
    return _TYPES[dtype]


def _literal(number: Any, dtype: torch.dtype) -> str:
    if not isinstance(number, bool | int | float):
        raise NoLoopError(f"a constant of type {type(number).__name__}")
    value = float(number)
    text = value.hex() if math.isfinite(value) else {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}[str(value)]
    return f"({_type(dtype)})({text})"


def _lines(indent: int, lines: Iterable[str]) -> str:
    return "".join(" " * indent + line + "\n" for line in lines)


_STAGE = Template("""
void $name(void* const* q, int64_t stride, int64_t length, int64_t first, int64_t last,
           const double* v, const double* t, double* into, char* w) {
$pointers$storage$numbers
  for (int64_t block = first; block < last; block += BLOCK) {
    const int64_t end = std::min(block + BLOCK, last);
$start
    #pragma omp simd$reduction
    for (int64_t i = block; i < end; ++i) {
$body    }
$end  }
}
""")
"""One loop, over elements ``first`` to ``last`` of the ``length`` in each of a tensor's arrays ``q[0]``, ``q[stride]``, ...; ``v`` are
hyper-parameters, ``t`` the sums of earlier loops, and its own are added ``into`` theirs, block by block, so that they don't depend on
the number of threads. What later loops need again lies in ``w``."""
