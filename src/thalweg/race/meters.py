"""Time and memory of a training run, measured around training steps only."""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import time
from pathlib import Path

import torch
from torch.optim import Optimizer

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class StepClock:
    """Seconds spent in training steps: ``resume()`` before the first step, ``lap()`` after each, ``pause()`` before
    other work.

    On CUDA a lap is an event on the stream, and times are read at ``pause()``: waiting for the device after every step
    would slow down what is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[float] = []
        self._marks: list[torch.cuda.Event] = []
        self._last = 0.0
        self._running_since = 0.0
        self.total = 0.0

    def resume(self) -> None:
        """Start to count."""
        _synchronize(self._device)
        self._last = self._running_since = time.perf_counter()
        if self._device.type == "cuda":
            self._marks = [_event()]

    def lap(self) -> float:
        """One training step is over; the seconds counted so far."""
        now = time.perf_counter()
        if self._device.type == "cuda":
            self._marks.append(_event())
        else:
            self._laps.append(now - self._last)
        self._last = now
        return self.total + now - self._running_since

    def pause(self) -> float:
        """Stop to count; the seconds counted so far."""
        _synchronize(self._device)
        self.total += time.perf_counter() - self._running_since
        pairs = zip(self._marks, self._marks[1:], strict=False)
        self._laps += [start.elapsed_time(end) / 1000 for start, end in pairs]
        self._marks = []
        return self.total

    def median_step(self) -> float:
        """Median seconds of one step; NaN before any."""
        return statistics.median(self._laps) if self._laps else float("nan")


class MemoryMeter:
    """Peak memory in bytes since it was made.

    On CUDA: the peak of allocated device memory. On the CPU: the growth of this process's resident memory (Linux only,
    0 elsewhere), after freed memory went back to the system; it includes what libraries keep for themselves and is
    good to a few MiB.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._start = torch.cuda.memory_allocated(device)
            return
        _give_back_freed_memory()
        self._exact = _reset_peak()
        self._start = _status_bytes("VmRSS")

    def peak(self) -> int:
        """Bytes at the peak above the start."""
        if self._device.type == "cuda":
            return max(0, torch.cuda.max_memory_allocated(self._device) - self._start)
        return max(0, _status_bytes("VmHWM" if self._exact else "VmRSS") - self._start)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of optimizer state that this process holds."""
    from thalweg.optim import optimizer_state_bytes

    return optimizer_state_bytes(optimizer)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _give_back_freed_memory() -> None:
    """Ask the C library to return freed memory, which would otherwise hide the growth of the next run."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # not glibc: the measure is less exact, as documented


def _reset_peak() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int:
    try:
        match = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match.group(1)) * 1024 if match else 0
