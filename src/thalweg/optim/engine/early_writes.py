"""State that a compiled pass writes as soon as it is known, in the loop that also sums over it.

Compiling makes a pass a function without side effects that copies new states and parameters to their places in the end.
Where sums over tensors stand in between, states are then read and worked out for the sum, and read and worked out again to be
written. Copied at once, they are written in the loop that sums, and the tensors of one parameter are worked on together, while
they lie in a cache.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import Graph, Node


def write_early(graph: Graph) -> None:
    """Move every copy to an input forward: to where what it copies is made, or, where that won't do, to where the last of the input's
    consequences is made, so that at least the passes over one parameter follow each other.

    Args:
        graph: of ATen operators without side effects other than these copies; changed in place.
    """
    copies = [node for node in graph.nodes if node.target is torch.ops.aten.copy_.default]
    for copy in copies:  # those of parameters come first, and what can't be written early follows them
        old, new = copy.args[:2]
        if old.op != "placeholder" or new.op == "placeholder":
            continue
        beside = _closure(old, functools.partial(_users_but_for, new)) - {old, copy}
        after = _closure(new, lambda node: node.users)
        if beside <= _closure(new, lambda node: node.all_input_nodes) and all(_sums_all(node, new) for node in after):
            new.append(copy)
            new.replace_all_uses_with(copy, delete_user_cb=functools.partial(operator.is_not, copy))
        else:
            max(node for node in beside | after if node is not copy and node.op != "output").append(copy)


def _users_but_for(new: Node, node: Node) -> Iterable[Node]:
    """What is made of a node, but not by way of the new numbers."""
    return () if node is new else node.users


def _sums_all(node: Node, new: Node) -> bool:
    """Whether a node isn't a sum, or one over just as many numbers as are written: only then its loop can write them, too."""
    if node.target is torch.ops.aten.sum.dim_IntList:
        return False
    return node.target is not torch.ops.aten.sum.default or node.args[0].meta["val"].shape == new.meta["val"].shape  # type: ignore[union-attr]


def _closure(start: Node, following: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """All nodes to be reached from one."""
    found, waiting = {start}, [start]
    while waiting:
        fresh = [node for node in following(waiting.pop()) if node not in found]
        found.update(fresh)
        waiting += fresh
    return found


@functools.cache
def early_writes() -> dict[str, Any]:
    """Options of Inductor under which it does that."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files  # slow to import

    class EarlyWrites(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            write_early(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return {"post_grad_custom_post_pass": EarlyWrites()}
