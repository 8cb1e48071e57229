"""A recorded pass taken apart into loops over elements: a sum over all elements must be known before what follows from it.

A state is written in the first loop that knows its new numbers, and read back in later ones, so that few numbers are read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_COSTLY = frozenset(("cos", "div", "exp", "log", "pow", "reciprocal", "rsqrt", "sigmoid", "sin", "sqrt", "tanh"))
"""Operators that take longer than to read a number from a cache."""


class NoLoopError(Exception):
    """A graph that isn't a matter of loops over elements."""


@dataclass(frozen=True)
class Array:
    """One of the arrays of equal length that loops work on.

    Attributes:
        name: of the graph's input that is read from it; None if it is only written.
        dtype: of its elements.
        result: place among the graph's results of what is written to it; None if it is only read.
    """

    name: str | None
    dtype: torch.dtype
    result: int | None


class Staging:
    """What each loop of a graph works out, reads and writes. Loops are numbered from 0.

    Args:
        graph: of functional ATen operators on tensors of one shape ("arrays") and without dimensions ("numbers").
        arrays: what it reads and writes.

    Attributes:
        shape: of the arrays, where the graph was recorded.
        read: for inputs, the number of the array that they are read from.
        sums: over all elements of an array, each known after some loop.
        count: of loops.
        written: for arrays that are written, by number: in which loop.
        stored: what is better kept beside from loop to loop than worked out again.

    Raises:
        NoLoopError: there are tensors of other shapes, or other sums.
    """

    def __init__(self, graph: Graph, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.nodes: list[Node] = list(graph.nodes)
        results: Any = self.nodes[-1].args[0]
        self.results = {place: results[array.result] for place, array in enumerate(arrays) if array.result is not None}
        inputs = {node.name: node for node in self.nodes if node.op == "placeholder"}
        self.read = {inputs[array.name]: place for place, array in enumerate(arrays) if array.name is not None}
        self.shape = next(iter(self.read)).meta["val"].shape
        self.sums: list[Node] = []
        self._known: dict[Node, int] = {}
        for node in self.nodes[:-1]:
            self._known[node] = self._first_loop(node)
        self.count = 1 + max(self._known[node] for node in self.results.values())
        self.written = self._when_written()
        self.stored = [node for node in self.nodes[:-1] if self._is_worth_storing(node)]

    def is_array(self, node: Any) -> bool:
        """Whether a node has a number for every element."""
        return isinstance(node, Node) and node.meta["val"].shape == self.shape

    def sums_of(self, loop: int) -> list[Node]:
        """Sums that a loop adds up."""
        return [node for node in self.sums if self._known[node] == loop + 1]

    def written_in(self, loop: int) -> list[int]:
        """Numbers of the arrays that a loop writes."""
        return [place for place, when in self.written.items() if when == loop]

    def kept(self, loop: int) -> dict[Node, int]:
        """What earlier loops have written to arrays, as it is, and to which."""
        return self._kept(loop, self.written)

    def stored_in(self, loop: int) -> list[Node]:
        """What a loop stores."""
        return [node for node in self.stored if self._known[node] == loop]

    def stored_before(self, loop: int) -> list[Node]:
        """What earlier loops have stored."""
        return [node for node in self.stored if self._known[node] < loop]

    def needed(self, loop: int, stored: bool) -> list[Node]:
        """All that a loop works out or reads, in order.

        Args:
            loop: which.
            stored: whether earlier loops have stored what is worth it.
        """
        return self._below(
            self._roots(loop, self.written), {*self.kept(loop), *(self.stored_before(loop) if stored else ())}
        )

    def _first_loop(self, node: Node) -> int:
        """The first loop in which an array is known, or before which a number is."""
        if node.op == "placeholder":
            return 0
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            raise NoLoopError(f"{node.op} {node.target}")
        loop = max((self._known[other] for other in node.all_input_nodes), default=0)
        if name_of(node) == "sum":
            if len(node.args) != 1 or node.kwargs or not self.is_array(node.args[0]):
                raise NoLoopError("a sum over some dimensions, or of another dtype")
            self.sums.append(node)
            return loop + 1
        if not (is_number(node) or self.is_array(node)):
            raise NoLoopError(f"{node.target} gives a tensor of shape {tuple(node.meta['val'].shape)}")
        return loop

    def _when_written(self) -> dict[int, int]:
        """The last loop; or the first that knows the new numbers, if they can be read back and nothing later needs the old ones."""
        last = dict.fromkeys(self.results, self.count - 1)
        early = {place: self._known[node] for place, node in self.results.items() if self._is_kept(place)}
        while True:
            written = last | early
            too_early = {
                place
                for loop in range(self.count)
                for node in self._below(self._roots(loop, written), set(self._kept(loop, written)))
                if (place := self.read.get(node, -1)) in early and loop > early[place]
            }
            if not too_early:
                return written
            early = {place: loop for place, loop in early.items() if place not in too_early}

    def _is_kept(self, place: int) -> bool:
        """Whether an array takes new numbers without rounding them."""
        node = self.results[place]
        return node.op != "placeholder" and node.meta["val"].dtype == self.arrays[place].dtype

    def _kept(self, loop: int, written: dict[int, int]) -> dict[Node, int]:
        return {node: place for place, node in self.results.items() if written[place] < loop and self._is_kept(place)}

    def _roots(self, loop: int, written: dict[int, int]) -> list[Node]:
        """What a loop is there for."""
        summed: list[Any] = [node.args[0] for node in self.sums_of(loop)]
        return summed + [self.results[place] for place, when in written.items() if when == loop]

    def _below(self, roots: Iterable[Node], known: set[Node]) -> list[Node]:
        """All that ``roots`` follow from, in order; what is known, as sums are, doesn't follow from anything."""
        found: set[Node] = set()
        waiting = list(roots)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                if node not in known and node not in self.sums:
                    waiting += node.all_input_nodes
        return [node for node in self.nodes if node in found]

    def _is_worth_storing(self, node: Node) -> bool:
        """Whether a loop works out an array that a later one needs, too, and that is made of several or by costly operators."""
        loop = self._known[node]
        if (
            not self.is_array(node)
            or node in self.read
            or node not in self._below(self._roots(loop, self.written), set())
        ):
            return False
        users = {
            user for user in node.users if user.op != "output" and user not in self.sums and self._known[user] > loop
        }
        later = range(loop + 1, self.count)
        if not any(node not in self.kept(k) and users.intersection(self.needed(k, stored=False)) for k in later):
            return False
        below = self._below([node], set(self.kept(loop)))
        return sum(other in self.read for other in below) > 1 or any(name_of(other) in _COSTLY for other in below)


def name_of(node: Node) -> str:
    """An operator's name, whatever its overload."""
    return getattr(node.target, "_opname", str(node.target))


def is_number(node: Node) -> bool:
    """Whether a node is one number for all elements."""
    return node.meta["val"].ndim == 0
