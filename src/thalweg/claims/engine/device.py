"""Runs a claim on an accelerator without its naming one.

A claim names no device. At gpu scale it runs inside :class:`Running`, where what it makes is made on the accelerator: tensors
by torch's own ``torch.device`` context, data that come from Python or NumPy by being moved there, and random numbers that it
draws with a generator by a generator of that device, which the claim's own one seeds. What goes to NumPy is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def accelerator() -> torch.device | None:
    """The machine's accelerator, if torch can use it and it has the float64 that theory is held against."""
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    try:
        torch.zeros((), dtype=torch.float64, device=found)
    except (TypeError, RuntimeError):
        return None
    return found


@contextmanager
def running_on(device: torch.device) -> Iterator[None]:
    """Everything that names no device is made on this one."""
    if device == CPU:
        yield
        return
    with torch.device(device), Running(device):
        yield


class Running(TorchFunctionMode):
    """Moves data and random numbers to a device; goes with ``torch.device(device)`` around it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self._twins: dict[tuple[torch.Generator, torch.device], torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        settings = dict(kwargs or {})
        if func in FETCHED:
            return func(args[0].cpu(), *args[1:], **settings)
        if func in MADE_OF_DATA and settings.get("device") is None:
            settings.pop("device", None)
            if args and isinstance(args[0], Tensor):
                return args[0].to(self.device, settings.get("dtype"))
            wanted = settings.pop("requires_grad", False)
            return func(*args, **settings, device=CPU).to(self.device).requires_grad_(wanted)
        if func in FORGOTTEN and settings.get("device") is None:
            settings["device"] = self.device
        if (generator := settings.get("generator")) is not None:
            given = (*args, *settings.values())
            tensor = next((each for each in given if isinstance(each, Tensor)), None)
            where = tensor.device if tensor is not None else torch.device(settings.get("device") or self.device)
            settings["generator"] = self._twin(generator, where)
        return func(*args, **settings)

    def _twin(self, generator: torch.Generator, device: torch.device) -> torch.Generator:
        """The generator itself on its own device; elsewhere one that it seeds when first asked."""
        if generator.device.type == device.type:
            return generator
        if (generator, device) not in self._twins:
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            self._twins[generator, device] = generator_on(device, int(seed))
        return self._twins[generator, device]


def generator_on(device: torch.device, seed: int) -> torch.Generator:
    """A generator of random numbers on a device."""
    return torch.Generator(device).manual_seed(seed)


FETCHED: set[Callable[..., Any]] = {Tensor.numpy, Tensor.__array__}
MADE_OF_DATA: set[Callable[..., Any]] = {torch.tensor, torch.as_tensor}
# torch.device's context knows what makes tensors from its first use in the process on; if that was while transformers loaded a
# model, which puts another function in the place of this one, it doesn't know this one.
FORGOTTEN: set[Callable[..., Any]] = {torch.linspace}
