"""What a step of an update rule costs, measured on a small language model: state, words to be moved, operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from thalweg.autodiff import Closure
from thalweg.optim import AdamW, ChainedOptimizer, optimizer_state_bytes
from thalweg.optim.engine.passes import memory_words
from thalweg.registry import Method
from thalweg.tasks.decoder import Decoder
from thalweg.tasks.docs_lm import next_byte_loss

WIDTH, LAYERS, CONTEXT = 128, 2, 32
"""Of the decoder; 86% of its numbers are in hidden matrices."""

RANK = WIDTH // 4
"""Of the rules that take one."""

_ONE_EACH = (
    "abs add ceil clamp clamp_max clamp_min cos cosh div erf exp expm1 floor log log1p maximum minimum mul neg pow reciprocal "
    "remainder round rsqrt rsub sigmoid sign sin sinh sqrt square sub tanh trunc"
)
PER_OUTPUT = {**dict.fromkeys(_ONE_EACH.split(), 1), "addcdiv": 2, "addcmul": 2, "lerp": 3}
"""Operations for each number that they give."""

PER_INPUT = {"sum": 1, "mean": 1, "linalg_vector_norm": 2, "norm": 2, "amax": 1, "amin": 1, "max": 1, "min": 1}
"""Operations for each number that they read."""

CUBIC = {"_linalg_eigh": 9, "linalg_qr": 4, "_linalg_svd": 22, "linalg_cholesky_ex": 1 / 3, "_linalg_solve_ex": 2 / 3}
"""Operations for an n x n matrix, as multiples of n cubed (Golub and Van Loan); of an m x n matrix, n is the shorter side, and m
takes the place of one n."""

_MOVES = (
    "_foreach_copy _to_copy _unsafe_view alias as_strided "
    "cat clone copy detach diagonal empty empty_like eq expand eye fill flip full full_like gather ge gt "
    "index index_put index_select le lift_fresh lt masked_fill ne new_empty new_full new_ones new_zeros normal ones "
    "ones_like permute rand randn scalar_tensor scatter select slice sort split split_with_sizes "
    "squeeze stack t topk transpose tril triu unbind uniform unsqueeze view where zero zeros zeros_like"
)
FREE = frozenset(_MOVES.split())
"""Moves, choices and draws: no arithmetic. Neither is counted what gives whole numbers or truth values."""


@dataclass(frozen=True)
class Costs:
    """Of one step, a parameter of the model.

    Args:
        state_bytes: bytes that the optimizer keeps, for parameters of four.
        words: words that a step must move: gradient in, parameter and state in and out; ``None`` for a rule that isn't a chain of
            transforms, which takes the model's passes into its own hands.
        flops: arithmetic operations of a step between two refreshes, passes over the model left out; ``None`` for such a rule.
        gradients: calls of the closure in such a step.
    """

    state_bytes: float
    words: float | None
    flops: float | None
    gradients: int


class Operations(TorchDispatchMode):
    """Counts arithmetic operations; ``paused()`` leaves some out."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self._paused = 0.0, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._paused:
            self.count += operations(func, args, kwargs or {}, out)
        return out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside isn't counted."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


def operations(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> float:
    """Arithmetic operations of one call; a transcendental function counts as one.

    Raises:
        ValueError: a call of unknown cost.
    """
    if func.overloadpacket in flop_registry:
        return flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
    name = func.overloadpacket.__name__.removesuffix("_")
    if name in FREE or not _numbers(out):
        return 0
    listed = name.startswith("_foreach_")
    plain = name.removeprefix("_foreach_")
    if plain in PER_OUTPUT:
        given = args[0] if listed else out
        factor = 2 if kwargs.get("alpha", 1) != 1 else 1
        return factor * PER_OUTPUT[plain] * _numbers(given)
    if plain in PER_INPUT:
        return PER_INPUT[plain] * _numbers(args[0])
    if name in CUBIC:
        *batch, m, n = args[0].shape
        return CUBIC[name] * max(m, n) * min(m, n) ** 2 * torch.Size(batch).numel()
    raise ValueError(f"the cost of {func} is unknown: add {name!r} to the tables of thalweg.report.rule_costs")


def _numbers(value: Any) -> int:
    """Floating-point numbers in a tensor or a list of them; 0 for whole numbers and truth values."""
    if isinstance(value, Tensor):
        return value.numel() if value.is_floating_point() else 0
    return sum(map(_numbers, value)) if isinstance(value, list | tuple) else 0


class _Quiet(Closure):
    """A closure whose passes over the model are counted as such, not by their operations."""

    counter: Operations
    calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        with self.counter.paused():
            return super().__call__()


def costs(method: Method) -> Costs:
    """Costs of a registered update rule, or those that a registered transform adds to AdamW's.

    Args:
        method: of the seam ``optim``.
    """
    if isinstance(method.target, type):
        given = {"rank": RANK} if "rank" in method.settings() else {}
        return _measured(lambda model: method.target(model, **given))
    with_it, without = _measured(lambda model: AdamW(model, before=method.target())), _measured(AdamW)
    assert with_it.words and without.words and with_it.flops and without.flops
    added = with_it.state_bytes - without.state_bytes, with_it.words - without.words, with_it.flops - without.flops
    return Costs(*added, gradients=0)


def _measured(make: Callable[[Decoder], Any]) -> Costs:
    """The second step of an optimizer, since many do more in the first one; of one that isn't a chain nothing but its state."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Decoder(context=CONTEXT, embed_dim=WIDTH, num_layers=LAYERS)
        text = torch.randint(256, (4, CONTEXT + 1), dtype=torch.uint8)
        optimizer = make(model)
        counter = Operations()
        closure = _Quiet(model, next_byte_loss, text[:, :-1], text[:, 1:])
        closure.counter = counter
        for mode in (nullcontext(), counter) if _chained(optimizer) else (nullcontext(),):
            closure.calls = 0
            if not getattr(optimizer, "needs_closure", False):
                closure()
            with mode:
                optimizer.step(closure if closure.calls == 0 else None)
    total = sum(p.numel() for p in model.parameters())
    state = optimizer_state_bytes(optimizer) / total
    if not _chained(optimizer):
        return Costs(state, None, None, closure.calls)
    return Costs(state, _words(optimizer) / total, counter.count / total, closure.calls)


def _chained(optimizer: Any) -> bool:
    """Whether an optimizer, or the one that it wraps, is a chain of transforms."""
    return isinstance(getattr(optimizer, "base", optimizer), ChainedOptimizer)


def _words(optimizer: Any) -> float:
    """Words of all parameters: those of the chains, and the state of matrix transforms in and out; of a wrapper, those of its base."""
    words, engine = 0, getattr(optimizer, "base", optimizer)
    for group in optimizer.param_groups:
        chain = engine.rule_of(group)
        words += memory_words(chain) * sum(p.numel() for p in group["params"])
        own = chain.state_keys(of_matrices=True)
        words += 2 * sum(optimizer.state[p][key].numel() for p in group["params"] for key in own)
    return words
