"""Passes as C++: a recorded pass over one tensor becomes a loop, or several with sums in between.

A pass does the same to every parameter, so what is compiled is one loop, whatever the number of parameters and their shapes: half a
second of g++ instead of tens for a function that names each tensor. What isn't a matter of single elements, of numbers, and of sums
over all elements (rows, random numbers, unknown operators) has no such form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

TYPES = {
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
    "relu": "from({0}, 0)",
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

_COSTLY = ("div", "exp", "log", "pow", "reciprocal", "rsqrt", "sigmoid", "sqrt", "tanh")

_COPIES = ("_to_copy", "alias", "clone", "detach", "expand", "view")

_CONSTANTS = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}
_FILLED = {"full_like": 1, "new_full": 2, "scalar_tensor": 0, "full": 1}  # place of the number among the arguments

_POWERS = {2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", 0.5: "std::sqrt({0})", -0.5: "1 / std::sqrt({0})", -1.0: "1 / {0}"}


class NoLoopError(Exception):
    """A graph that isn't a loop over elements."""


@dataclass(frozen=True)
class Array:
    """One of the arrays of equal length that a loop works on.

    Attributes:
        name: of the graph's input that is read from it; None if it is only written.
        dtype: of its elements.
        result: place among the graph's results of what is written to it; None if it is only read.
    """

    name: str | None
    dtype: torch.dtype
    result: int | None


def source_of(graph: Graph, arrays: Sequence[Array], values: str) -> str:
    """The program: ``run(count, lengths, order, together, pointers, values, threads)``.

    Args:
        graph: of functional ATen operators, traced on tensors of one shape.
        arrays: what it reads and writes.
        values: name of its input that is a vector of hyper-parameters, float64.

    Raises:
        NoLoopError: it is something else than a loop over elements.
    """
    return _Program(graph, arrays, values).text()


class _Program:
    def __init__(self, graph: Graph, arrays: Sequence[Array], values: str) -> None:
        self.arrays, self.values = arrays, values
        self.nodes = list(graph.nodes)
        self.results: list[Node] = list(self.nodes[-1].args[0])  # type: ignore[arg-type]
        inputs = {node.name: node for node in self.nodes if node.op == "placeholder"}
        self.shape = inputs[next(array.name for array in arrays if array.name)].meta["val"].shape  # type: ignore[index]
        self.read = {inputs[array.name]: place for place, array in enumerate(arrays) if array.name is not None}
        self.stage: dict[Node, int] = {}
        self.sums: list[Node] = []
        for node in self.nodes[:-1]:
            self._place(node)
        self.stages = 1 + max(self.stage[result] for result in self.results)
        self.stored: list[Node] = []
        self.written = self._when_written()
        self.stored = self._worth_storing()

    def _place(self, node: Node) -> None:
        """The first loop in which a node is known; a number is known before it."""
        if node.op == "placeholder":
            self.stage[node] = 0
            return
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            raise NoLoopError(f"{node.op} {node.target}")
        self.stage[node] = max((self.stage[other] for other in node.all_input_nodes), default=0)
        if _name(node) == "sum":
            if len(node.args) != 1 or node.kwargs or not self._is_array(node.args[0]):
                raise NoLoopError("a sum over some dimensions, or of another type")
            self.stage[node] += 1
            self.sums.append(node)
        elif not (_is_number(node) or self._is_array(node)):
            raise NoLoopError(f"{node.target} gives a tensor of shape {tuple(node.meta['val'].shape)}")

    def _is_array(self, node: Any) -> bool:
        return isinstance(node, Node) and node.meta["val"].shape == self.shape

    def _when_written(self) -> dict[int, int]:
        """For each array that is written, in which loop: in the last; or as soon as its new numbers are known, if these can be read back
        and nothing later needs the old ones."""
        last = self.stages - 1
        written = {place: last for place, array in enumerate(self.arrays) if array.result is not None}
        early = {
            place: self.stage[result]
            for place, array in enumerate(self.arrays)
            if array.result is not None
            and (result := self.results[array.result]).op != "placeholder"
            and array.dtype == result.meta["val"].dtype
        }
        while True:
            self.written = written | early
            needed = {
                place
                for stage in range(self.stages)
                for node in self._needed(stage)
                if (place := self.read.get(node)) in early and stage > early[place]
            }
            if not needed:
                return self.written
            early = {place: stage for place, stage in early.items() if place not in needed}

    def _worth_storing(self) -> list[Node]:
        """Nodes that a later loop needs again and that take more to work out than to read."""
        found = []
        for node in self.nodes[:-1]:
            stage = self.stage[node]
            later = [s for s in range(stage + 1, self.stages) if node in self._needed(s) and node not in self._kept(s)]
            if not later or not self._is_array(node) or node in self.read or node not in self._needed(stage):
                continue
            used_later = any(self.stage[user] > stage for user in node.users)
            below = self._needed(stage, [node])
            costly = sum(other in self.read for other in below) > 1 or any(_name(other) in _COSTLY for other in below)
            if used_later and costly:
                found.append(node)
        return sorted(found, key=lambda node: -node.meta["val"].element_size())

    def _kept(self, stage: int) -> dict[Node, int]:
        """Nodes that an earlier loop has written to an array, and to which."""
        return {
            self.results[array.result]: place
            for place, array in enumerate(self.arrays)
            if array.result is not None
            and self.written[place] < stage
            and array.dtype == self.results[array.result].meta["val"].dtype
        }

    def _roots(self, stage: int) -> list[Node]:
        """What a loop is there for."""
        sums: list[Any] = [node.args[0] for node in self.sums if self.stage[node] == stage + 1]
        places = [place for place, when in self.written.items() if when == stage]
        return sums + [self.results[self.arrays[place].result] for place in places]  # type: ignore[index]

    def _needed(self, stage: int, roots: Sequence[Node] | None = None, stored: bool = False) -> list[Node]:
        """All nodes that a loop goes through, in order.

        Args:
            stage: which loop.
            roots: what for; by default what the loop is there for.
            stored: whether what is worth it is read back.
        """
        known = {*self._kept(stage), *self.sums}
        if stored:
            known.update(node for node in self.stored if self.stage[node] < stage)
        found: set[Node] = set()
        waiting = list(self._roots(stage) if roots is None else roots)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                if node not in known:
                    waiting += node.all_input_nodes
        return [node for node in self.nodes if node in found]

    def text(self) -> str:
        """The whole program."""
        return _PROGRAM.substitute(
            arrays=len(self.arrays),
            sums=len(self.sums),
            count=self.stages,
            stored=sum(node.meta["val"].element_size() for node in self.stored),
            stages=", ".join(f"stage{stage}" for stage in range(self.stages)),
            storing=", ".join(f"storing{stage}" for stage in range(self.stages)),
            functions="".join(self._function(stage, way) for way in (False, True) for stage in range(self.stages)),
        )

    def _function(self, stage: int, stored: bool) -> str:
        needed, kept = self._needed(stage, stored=stored), self._kept(stage)
        beside = {node: k for k, node in enumerate(self.stored)} if stored else {}
        numbers: list[str] = []
        reads: list[str] = []
        lines: list[str] = []
        used: set[int] = set()
        for node in needed:
            type_ = _type(node.meta["val"].dtype)
            if node in kept or node in self.read:
                place = kept[node] if node in kept else self.read[node]
                used.add(place)
                reads.append(f"const {type_} {_variable(node)} = a{place}[i];")
            elif node in beside and self.stage[node] < stage:
                reads.append(f"const {type_} {_variable(node)} = w{beside[node]}[i];")
            elif node in self.sums:
                numbers.append(f"const {type_} {_variable(node)} = ({type_})t[{self.sums.index(node)}];")
            elif node.op == "placeholder":
                continue  # the vector of values
            else:
                place_of = numbers if _is_number(node) else lines
                place_of.append(f"const {type_} {_variable(node)} = {self._expression(node)};")
        mine = [node for node in self.sums if self.stage[node] == stage + 1]
        for node in mine:
            lines.append(f"s{self.sums.index(node)} += {_as(node.args[0], node.meta['val'].dtype)};")
        lines += [f"w{k}[i] = {_variable(node)};" for node, k in beside.items() if self.stage[node] == stage]
        for place, when in self.written.items():
            if when == stage:
                used.add(place)
                array = self.arrays[place]
                lines.append(f"a{place}[i] = {_as(self.results[array.result], array.dtype)};")  # type: ignore[index]
        sums = [(self.sums.index(node), _type(node.meta["val"].dtype)) for node in mine]
        return _STAGE.substitute(
            name=f"{'storing' if stored else 'stage'}{stage}",
            pointers=_lines(2, (f"{self._pointer(place)} a{place} = ({self._pointer(place)})q[{place} * stride];" for place in sorted(used))),
            storage=_lines(2, self._storage() if stored else ()),
            numbers=_lines(2, numbers),
            start=_lines(4, (f"{type_} s{k} = 0;" for k, type_ in sums)),
            reduction=f" reduction(+:{', '.join(f's{k}' for k, _ in sums)})" if sums else "",
            body=_lines(6, (*reads, *lines)),
            end=_lines(4, (f"into[{k}] += s{k};" for k, _ in sums)),
        )

    def _storage(self) -> Iterator[str]:
        before = 0  # bytes of an element's numbers stored before
        for k, node in enumerate(self.stored):
            type_ = _type(node.meta["val"].dtype)
            yield f"{type_}* w{k} = ({type_}*)(w + {before} * length);"
            before += node.meta["val"].element_size()

    def _pointer(self, place: int) -> str:
        return f"{_type(self.arrays[place].dtype)}*"

    def _expression(self, node: Node) -> str:
        name, dtype = _name(node), node.meta["val"].dtype
        args: list[Any] = list(node.args)
        kwargs = {key: value for key, value in node.kwargs.items() if value is not None}
        if name == "select":
            if args[0].name != self.values or args[1] != 0:
                raise NoLoopError("elements picked out")
            return f"v[{int(args[2])}]"
        if name in _CONSTANTS or name in _FILLED:
            number = _CONSTANTS[name] if name in _CONSTANTS else args[_FILLED[name]]
            return f"({_type(dtype)})length" if number == self.shape.numel() else _literal(number, dtype)
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


def _name(node: Node) -> str:
    return getattr(node.target, "_opname", str(node.target))


def _is_number(node: Node) -> bool:
    return node.meta["val"].ndim == 0


def _variable(node: Node) -> str:
    return f"x_{node.name}"


def _as(item: Any, dtype: torch.dtype) -> str:
    """A node or a number, converted."""
    if not isinstance(item, Node):
        return _literal(item, dtype)
    return _variable(item) if item.meta["val"].dtype == dtype else f"({_type(dtype)}){_variable(item)}"


def _type(dtype: torch.dtype) -> str:
    if dtype not in TYPES:
        raise NoLoopError(f"numbers of {dtype}")
    return TYPES[dtype]


def _literal(number: Any, dtype: torch.dtype) -> str:
    if not isinstance(number, bool | int | float):
        raise NoLoopError(f"a constant of type {type(number).__name__}")
    value = float(number)
    text = value.hex() if math.isfinite(value) else ("NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY")
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

_PROGRAM = Template("""\
#include <features.h>
#if defined(__GLIBC__) && defined(__x86_64__)
// There the C library has these for whole registers; its own headers say so only where sums may be taken in any order.
#define MANY_AT_ONCE extern "C" __attribute__((__simd__("notinbranch")))
MANY_AT_ONCE float expf(float) noexcept;
MANY_AT_ONCE float logf(float) noexcept;
MANY_AT_ONCE float powf(float, float) noexcept;
MANY_AT_ONCE float sinf(float) noexcept;
MANY_AT_ONCE float cosf(float) noexcept;
MANY_AT_ONCE double exp(double) noexcept;
MANY_AT_ONCE double log(double) noexcept;
MANY_AT_ONCE double pow(double, double) noexcept;
MANY_AT_ONCE double sin(double) noexcept;
MANY_AT_ONCE double cos(double) noexcept;
#endif
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

namespace {

constexpr int SUMS = $sums, STORED = $stored;
constexpr int64_t BLOCK = 4096, LINE = 16;
constexpr int64_t CACHED = 1 << 20;  // elements of a tensor up to which it pays to store numbers rather than to work them out again

struct bfloat16 {
  uint16_t bits;
  explicit bfloat16(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    bits = x != x ? 0x7fc0 : uint16_t((b + 0x7fff + ((b >> 16) & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t b = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &b, 4);
    return x;
  }
};

// All hand NaN on, as torch's do; but for sign, which is 0 there.
template <class T> inline T larger(T x, T y) { return x != x || x > y ? x : y; }
template <class T> inline T smaller(T x, T y) { return x != x || x < y ? x : y; }
template <class T> inline T from(T x, T low) { return x < low ? low : x; }
template <class T> inline T upto(T x, T high) { return x > high ? high : x; }
template <class T> inline T sign(T x) { return T(x > 0) - T(x < 0); }
template <class T> inline T mixed(T x, T y, T w) { return std::abs(w) < T(0.5) ? x + w * (y - x) : y - (y - x) * (1 - w); }
$functions
using Stage = void (*)(void* const*, int64_t, int64_t, int64_t, int64_t, const double*, const double*, double*, char*);
constexpr int COUNT = $count;
constexpr Stage STAGES[2][COUNT] = {{$stages}, {$storing}};

// Room for what is stored of a tensor; kept, for new memory is slow at first.
char* room(int64_t length, std::vector<char>& kept) {
  if (STORED == 0 || length > CACHED) return nullptr;
  if (int64_t(kept.size()) < STORED * length) kept.resize(STORED * length);
  return kept.data();
}

// All threads work on one tensor, each on its share of the blocks.
void together(void* const* q, int64_t stride, int64_t length, const double* v, std::vector<double>& parts, char* w) {
  const int64_t me = omp_get_thread_num(), threads = omp_get_num_threads();
  const int64_t blocks = (length + BLOCK - 1) / BLOCK, first = blocks * me / threads, last = blocks * (me + 1) / threads;
  double t[SUMS + 1] = {};
  for (Stage stage : STAGES[w != nullptr]) {
    double own[SUMS + 1];
    for (int64_t block = first; block < last; ++block) {
      std::fill(own, own + SUMS, 0.0);
      stage(q, stride, length, block * BLOCK, std::min((block + 1) * BLOCK, length), v, t, own, w);
      std::copy(own, own + SUMS, parts.begin() + block * SUMS);
    }
    #pragma omp barrier
    for (int64_t block = 0; block < blocks; ++block)
      for (int sum = 0; sum < SUMS; ++sum) t[sum] += parts[block * SUMS + sum];
    #pragma omp barrier
  }
}

// One thread works on one tensor.
void alone(void* const* q, int64_t stride, int64_t length, const double* v) {
  thread_local std::vector<char> kept;
  char* w = room(length, kept);
  double t[SUMS + 1] = {};
  for (Stage stage : STAGES[w != nullptr]) stage(q, stride, length, 0, length, v, t, t, w);
}

}  // namespace

// For count tensors: their lengths and, one array after the other, pointers to each tensor's. Those that come first in order are shared
// by all threads, one after the other.
extern "C" void run(int64_t count, const int64_t* lengths, const int64_t* order, int64_t shared, void* const* pointers,
                    const double* v, int64_t threads) {
  if (SUMS == 0) {
    int64_t total = 0;
    for (int64_t k = 0; k < count; ++k) total += lengths[k];
    #pragma omp parallel num_threads(threads)
    {
      const int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
      int64_t low = total / all * me, high = me + 1 < all ? low + total / all : total;
      for (int64_t k = 0; k < count && high > 0; ++k) {
        const int64_t first = std::max<int64_t>(low / LINE * LINE, 0), last = high < lengths[k] ? high / LINE * LINE : lengths[k];
        if (first < last) STAGES[0][0](pointers + k, count, lengths[k], first, last, v, nullptr, nullptr, nullptr);
        low -= lengths[k];
        high -= lengths[k];
      }
    }
    return;
  }
  thread_local std::vector<char> kept;
  std::vector<char>& common = kept;  // of the calling thread, also for the others
  int64_t longest = 0;
  for (int64_t j = 0; j < shared; ++j) longest = std::max(longest, lengths[order[j]]);
  std::vector<double> parts((longest + BLOCK - 1) / BLOCK * SUMS);
  for (int64_t j = 0; j < shared; ++j) room(lengths[order[j]], common);
  std::atomic<int64_t> next{shared};
  #pragma omp parallel num_threads(threads)
  {
    for (int64_t j = 0; j < shared; ++j) {
      const int64_t k = order[j];
      together(pointers + k, count, lengths[k], v, parts, room(lengths[k], common));
    }
    for (int64_t j = next++; j < count; j = next++) alone(pointers + order[j], count, lengths[order[j]], v);
  }
}
""")
