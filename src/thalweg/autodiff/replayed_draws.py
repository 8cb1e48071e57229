"""The same random numbers in a further pass over a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class ReplayedDraws:
    """Remembers torch's random generators, so that dropout draws the same masks :meth:`again`.

    Args:
        devices: where numbers are drawn; the CPU's generator is always remembered.

    Example:
        >>> draws = ReplayedDraws([])
        >>> first, second = torch.rand(3), torch.rand(3)
        >>> with draws.again():
        ...     torch.equal(torch.rand(3), first)
        True
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {d: torch.cuda.get_rng_state(d) for d in set(devices) if d.type == "cuda"}

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw from where the generators stood when this was made; afterwards they stand where they do now."""
        with torch.random.fork_rng(devices=list(self._cuda)):
            torch.set_rng_state(self._cpu)
            for device, state in self._cuda.items():
                torch.cuda.set_rng_state(state, device)
            yield
