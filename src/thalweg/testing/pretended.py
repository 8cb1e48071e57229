"""A device that isn't there: tensors that say they lie on it and refuse to be mixed with others.

They hold CPU tensors, on which everything is computed. So code for an accelerator can be run, and gives just what it gives on
the CPU, on a machine without one. It says nothing about kernels that an accelerator may lack, nor about speed.

Importing this module takes torch's one free device type (``privateuseone``) for it, for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)


class _Unavailable:
    """So that nothing else takes it for an accelerator to choose."""

    def is_available(self) -> bool:
        return False

    def device_count(self) -> int:
        return 0


class _Hook(_Unavailable, _DummyPrivateUse1Hook):
    pass


class _Module(_Unavailable, _DummyBackendModule):
    pass


_setup_privateuseone_for_python_backend("pretended", backend_module=_Module(), hook=_Hook())
DEVICE = torch.device("pretended", 0)
CPU = torch.device("cpu")


class Pretended(Tensor):
    """Says that it lies on :data:`DEVICE`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """While it is entered, what is made on :data:`DEVICE` is :class:`Pretended`."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not types and not (kwargs and "device" in kwargs):
            return func(*args, **(kwargs or {}))
        return _computed(func, args, kwargs or {})


class Asking(TorchFunctionMode):
    """Answers what torch would answer for the shell: it has no address, and ``tolist`` refuses subclasses."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.tolist, Tensor.data_ptr) and isinstance(args[0], Pretended):
            return func(args[0].held)
        return func(*args, **(kwargs or {}))


@contextmanager
def pretending() -> Iterator[torch.device]:
    """A device on which what is made is held by the CPU, and mixed with nothing else.

    Modules must be moved by ``model.to(device)`` or made inside ``with device:``. Random numbers are the CPU's, from its
    generators. In-place changes of ``.data`` aren't followed.

    Example:
        >>> with pretending() as device:
        ...     there = torch.ones(2, device=device)
        ...     print((there + 1).cpu(), there.device)
        ...     there + torch.ones(2)
        Traceback (most recent call last):
            ...
        RuntimeError: aten.add.Tensor: expected all tensors to be on pretended:0, one is on cpu
    """
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # assigning to .data would leave what is held
    try:
        # On a thread of its own a backward pass takes three times as long: each operator enters Python anew.
        with Pretending(), Asking(), torch.autograd.set_multithreading_enabled(False):
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _computed(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    shells: list[Pretended] = []
    others: list[Tensor] = []
    held = _held(args, shells, others)
    held_settings = _held(kwargs, shells, others) if kwargs else {}
    copies, reshapes, changes = _traits(func)
    here = bool(shells)
    for each in others:
        if each.device == DEVICE or (here and each.dim() and not copies):
            raise RuntimeError(f"{func}: expected all tensors to be on {DEVICE}, one is on {each.device}")
    if copies:
        here = isinstance(args[0], Pretended)
    if kwargs and kwargs.get("device") is not None:
        here = torch.device(kwargs["device"]).type == DEVICE.type
        held_settings["device"] = CPU
    if reshapes:
        with no_dispatch():
            func(*args, **kwargs)  # gives the shell its new shape, too
    result = func(*held, **held_settings)
    if not here:
        return result
    return _shell(result, {id(each.held): each for each in shells} if changes else {})


@cache
def _traits(func: Callable[..., Any]) -> tuple[bool, bool, bool]:
    """Whether an operator copies between devices, gives a tensor another shape in place, and changes what it is given."""
    schema = getattr(func, "_schema", None)
    return (
        func is torch.ops.aten.copy_.default,
        torch.Tag.inplace_view in getattr(func, "tags", ()),
        schema is None or schema.is_mutable,
    )


_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype})


def _held(part: Any, shells: list[Pretended], others: list[Tensor]) -> Any:
    """Arguments with what shells hold in their place; shells and other tensors are added to the lists."""
    kind = type(part)
    if kind is Pretended:
        shells.append(part)
        return part.held
    if kind in _PLAIN:
        return part
    if isinstance(part, Tensor):
        others.append(part)
        return part
    if isinstance(part, list | tuple):
        return kind([_held(each, shells, others) for each in part])
    if isinstance(part, Mapping):
        return {name: _held(each, shells, others) for name, each in part.items()}
    return part


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty_strided(size: Any, stride: Any, **settings: Any) -> Tensor:
    """Asked for by torch itself, below all modes, as for the list of an index."""
    return Pretended(torch.empty_strided(size, stride, **{**settings, "device": CPU}))


@torch.library.impl("aten::empty.memory_format", "PrivateUse1")
def _empty(size: Any, **settings: Any) -> Tensor:
    return Pretended(torch.empty(size, **{**settings, "device": CPU}))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    held = [each.held if isinstance(each, Pretended) else each for each in (source, target)]
    held[1].copy_(held[0])
    return target


def _shell(part: Any, shells: Mapping[int, Pretended]) -> Any:
    """A result in shells, the old ones where it was computed in place."""
    if isinstance(part, Tensor):
        return shells[id(part)] if id(part) in shells else Pretended(part)
    if isinstance(part, list | tuple):
        return type(part)([_shell(each, shells) for each in part])
    return part
