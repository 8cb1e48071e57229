"""Which of a group's matrices have state for the next steps, where subspaces are whole matrices (FRUGAL, arXiv:2411.07837)."""

from __future__ import annotations

import torch

from thalweg.optim.engine.random import stream_key

BLOCK_ORDERS = ("random", "ascending", "descending", "mirror")
"""Draws at random, or the matrices in turn: from the first, from the last, or from both ends at once."""


def active_blocks(order: str, count: int, density: float, draw: int, step: int, seed: int = 0) -> set[int]:
    r"""Places of the active matrices, :math:`k = \mathrm{round}(\rho n)` of n.

    Draw d takes places dk, dk + 1, ..., dk + k - 1 (modulo n) of a list: all places in their order ("ascending"), backwards
    ("descending"), or 0, n - 1, 1, n - 2, ... ("mirror"); so that each matrix is active as often as any other, but for one draw.
    "random" takes any k, each draw by itself.

    Args:
        order: of :data:`BLOCK_ORDERS`.
        count: n.
        density: :math:`\rho`, the share that is active; halves are rounded to even.
        draw: d, from 0.
        step: the number of the step, from 1; for "random".
        seed: for "random".

    Raises:
        ValueError: "mirror", where n or k is odd: its pairs would come apart.

    Example:
        >>> [sorted(active_blocks("mirror", 6, 1 / 3, draw, step=1)) for draw in range(3)]
        [[0, 5], [1, 4], [2, 3]]
    """
    active = round(density * count)
    if order == "mirror" and (count % 2 or active % 2):
        raise ValueError(
            f"block_order='mirror' takes pairs: give it groups of an even number of matrices and a density that makes an even number "
            f"of them active, not {active} of {count}"
        )
    if order == "random":
        generator = torch.Generator().manual_seed(stream_key(seed, step))
        return set(torch.randperm(count, generator=generator).tolist()[:active])
    places = list(range(count))
    if order == "descending":
        places.reverse()
    if order == "mirror":
        places = [place for i in range(count // 2) for place in (i, count - 1 - i)]
    return {places[(draw * active + i) % count] for i in range(active)}
