"""Programs as optimizers: a transform for those that see each number alone, a class for all (arXiv:2302.06675)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import Chained, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.program_search.known import LION
from thalweg.optim.program_search.program import Program
from thalweg.optim.program_search.running import Step, run_steps, steps_of

_STEPS: dict[str, tuple[Step, ...]] = {}
"""Programs by text, ready to run: the compiled pass finds them here, as it can't read text."""


def _elementwise_steps(program: str) -> None:
    if program not in _STEPS:
        parsed = Program.parse(program).simplified()
        if not parsed.is_elementwise:
            raise ValueError("the program needs whole tensors (norms or products): run it by ProgramOptimizer")
        _STEPS[program] = steps_of(parsed)


def _read(step: int, program: str) -> dict[str, float]:
    """Called before each step in plain Python, also after an optimizer was unpickled in a new process."""
    _elementwise_steps(program)
    return {}


@elementwise(state=("m", "v"), prepare=_read, check=_elementwise_steps, last=True)
def program_direction(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, lr: Any, program: str = str(LION)
) -> Tensor:
    """The step of an update rule written as a program, divided by the learning rate, by which the engine multiplies it.

    The program's ``lr`` is the engine's. ``program`` is the text of a :class:`Program` that sees each number alone; it may differ
    between parameter groups, and goes with the state dict. Nothing may follow in a chain: the program says what the step is.

    State: two tensors a parameter, ``m`` and ``v``, whether the program uses them or not.

    Raises a ``ValueError`` for programs that can't run or need whole tensors.

    Example:
        >>> from thalweg.optim import Chained, program_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], program_direction(program="s = sign(g)\\nupdate = s * lr"), lr=0.5).step()
        >>> p.data
        tensor([2.5000, 4.5000])
    """
    rate = torch.as_tensor(lr, dtype=torch.float64)
    step, m, v = run_steps(_STEPS[program], [param], [update], [state["m"]], [state["v"]], rate)
    state["m"], state["v"] = m[0], v[0]
    return torch.where(rate == 0, 0.0, step[0] / rate)


@lru_cache(maxsize=256)
def _steps(program: str) -> tuple[Step, ...]:
    return steps_of(Program.parse(program))


class ProgramOptimizer(torch.optim.Optimizer):
    """Runs any program of update rules over all parameters in lockstep, line by line, so that global norms see every tensor.

    For programs that see each number alone :func:`program_direction` does the same in the engine, with its options, compiled and
    sharded. This class is for those with ``norm``, ``global_norm``, ``dot``, ``cosine_sim`` or ``clip``. Global norms go over all
    parameters with a gradient, of all groups with the same program and the same ``lr``.

    Args:
        params: parameters or parameter groups; a module's ``parameters()``. Real and dense.
        program: a :class:`Program` or its text.
        lr: what the program finds as ``lr`` (default 1, as programs hold their own scale).

    State: two tensors a parameter, ``m`` and ``v``, in float32 at least.

    Raises:
        ValueError: the program can't run, a complex parameter, or an ``lr`` below 0.

    The paper: arXiv:2302.06675.

    Example:
        >>> from thalweg.optim import ProgramOptimizer
        >>> p = nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> ProgramOptimizer([p], "update = clip(g, lr)", lr=1.0).step()
        >>> p.data
        tensor([-0.6000,  0.8000])
    """

    def __init__(self, params: Any, program: Program | str, lr: float | Tensor = 1.0) -> None:
        super().__init__(params, {"lr": lr, "program": str(program)})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which may have an ``lr`` and a ``program`` of its own."""
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            if not float(group["lr"]) >= 0:
                raise ValueError(f"Invalid lr: {group['lr']} (must be a number >= 0)")
            group["program"] = str(group["program"])
            _steps(group["program"])
            for param in group["params"]:
                if param.is_complex():
                    raise ValueError(f"programs can't take the complex parameter of shape {tuple(param.shape)}")
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over all parameters that have a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        together: dict[tuple[str, float], list[Tensor]] = {}
        for group in self.param_groups:
            own = [p for p in group["params"] if p.grad is not None]
            together.setdefault((group["program"], float(group["lr"])), []).extend(own)
        for (program, rate), params in together.items():
            self._step(params, _steps(program), rate)
        return loss

    def _step(self, params: list[Tensor], steps: tuple[Step, ...], rate: float) -> None:
        if not params:
            return
        dtypes = [torch.promote_types(p.dtype, torch.float32) for p in params]
        for param, dtype in zip(params, dtypes, strict=True):
            if not self.state[param]:
                self.state[param] = {name: torch.zeros_like(param, dtype=dtype) for name in ("m", "v")}
        w = [p.to(dtype) for p, dtype in zip(params, dtypes, strict=True)]
        g = [p.grad.to(dtype) for p, dtype in zip(params, dtypes, strict=True) if p.grad is not None]
        m, v = ([self.state[p][name] for p in params] for name in ("m", "v"))
        updates, m, v = run_steps(steps, w, g, m, v, rate)
        for param, old, update, *buffers in zip(params, w, updates, m, v, strict=True):
            param.copy_(old - update)
            self.state[param] = dict(zip(("m", "v"), buffers, strict=True))


def make_optimizer(
    program: Program | str, params: Params, lr: float | Tensor = 1.0, **options: Any
) -> torch.optim.Optimizer:
    """An optimizer that follows a program: by the engine where the program sees each number alone, else a ``ProgramOptimizer``.

    Args:
        program: a :class:`Program` or its text.
        params: parameters or parameter groups, or a module.
        lr: what the program finds as ``lr``.
        options: the engine's, such as ``maximize``; see :class:`~thalweg.optim.EngineOptions`.

    Raises:
        ValueError: the program can't run.
        TypeError: options for a program that needs whole tensors, or unknown ones.

    Example:
        >>> from thalweg.optim.program_search import ADAMW, RAW_LION, make_optimizer
        >>> [type(make_optimizer(program, nn.Linear(2, 1))).__name__ for program in (ADAMW, RAW_LION)]
        ['Chained', 'ProgramOptimizer']
    """
    parsed = Program.parse(program) if isinstance(program, str) else program
    if parsed.problem is not None:
        raise ValueError(parsed.problem)
    if parsed.simplified().is_elementwise:
        return Chained(params, program_direction(program=str(parsed.simplified())), lr=lr, **options)
    return ProgramOptimizer(
        params.parameters() if isinstance(params, torch.nn.Module) else params, parsed, lr, **options
    )
