"""Peak memory of a call, as the allocator saw it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch


def peak_memory(function: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Bytes of tensors that were allocated at the worst moment of a call, above what was allocated before it.

    On the CPU torch's profiler records every allocation and release of the allocator, and the peak is that of their running sum:
    exact, whatever is freed in between. It doesn't see memory that libraries take past torch's allocator, nor the release of
    what was there before the call. On CUDA it is the allocator's own ``max_memory_allocated``. For a few steps; a long training
    would record a great many events, and a race measures otherwise.

    Args:
        function: what is called, once. Warm it up if its first call allocates what stays, such as an optimizer's state.
        device: "cpu" (default) or a CUDA device; tensors elsewhere aren't counted.

    Returns:
        Bytes, at least 0.

    Raises:
        ValueError: a device of another kind.

    Example:
        >>> import torch
        >>> def two_at_once():
        ...     a = torch.zeros(1000)
        ...     b = a.exp()
        ...     del a
        ...     return b.exp()
        >>> peak_memory(two_at_once)  # two of 4000 bytes, never three
        8000
    """
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"peak_memory knows the CPU and CUDA devices, not {str(device)!r}")
    gc.collect()  # garbage of before, freed now, would make room that isn't the function's
    if device.type == "cuda":
        return _on_cuda(function, device)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = function()
    del result
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    on_cpu = [event for event in events if event.device_type() == torch.autograd.DeviceType.CPU]
    on_cpu.sort(key=lambda event: event.start_ns())  # stable: those of one moment stay in their order
    return max(accumulate((event.nbytes() for event in on_cpu), initial=0))


def _on_cuda(function: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    torch.cuda.synchronize(device)
    del result
    return torch.cuda.max_memory_allocated(device) - before
