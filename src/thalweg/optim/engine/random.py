"""Random numbers as a function of (key, position): the same in eager and compiled code, on shards and whole tensors.

A generator with a state would make results depend on the order of tensors and on the sharding, and its state would have to be
saved. Here element ``i`` of parameter ``j`` at step ``t`` gets its own number: ``i`` under a key made of (seed, t, j), mixed by the
steps of *SplitMix64* (Steele, Lea and Flood 2014). A dozen integer operations, each of which uses few earlier results: in a fused
pass an expression is worked out anew for every use, so generators that square again and again take minutes to compile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


_GOLDEN, _MIX1, _MIX2 = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def stream_key(*parts: int) -> int:
    """A well-mixed 64-bit key (as a signed integer) for a stream named by whole numbers, such as (seed, step, parameter)."""
    key = _GOLDEN
    for part in parts:
        key = (key ^ (part & _MASK64)) + _GOLDEN & _MASK64
        key = (key ^ (key >> 30)) * _MIX1 & _MASK64
        key = (key ^ (key >> 27)) * _MIX2 & _MASK64
        key ^= key >> 31
    return _signed(key)


def random_bits(index: Tensor, key: Any) -> Tensor:
    """64 random bits for every int64 position ``index`` (same shape, int64) under ``key`` (an int or a 0-d int64 tensor)."""
    # Not index * constant: in compiled C++ a loop counter must not overflow, or the loop may run past its end.
    x = (index ^ key) * _GOLDEN
    x = (x ^ ((x >> 30) & (_MASK64 >> 30))) * _MIX1  # the masks make shifts logical: int64 has a sign
    x = (x ^ ((x >> 27) & (_MASK64 >> 27))) * _MIX2
    return x ^ ((x >> 31) & (_MASK64 >> 31))


def standard_normal(index: Tensor, key: Any) -> Tensor:
    """Standard normal float32 numbers for every position, by Box and Muller from two 32-bit halves."""
    bits = random_bits(index, key)
    u1 = (((bits >> 32) & _MASK32).to(torch.float32) + 1.0) * 2.0**-32
    u2 = (bits & _MASK32).to(torch.float32) * (2.0 * math.pi * 2.0**-32)
    return torch.sqrt(-2.0 * torch.log(u1.clamp(max=1.0))) * torch.cos(u2)


def round_stochastically(x: Tensor, dtype: torch.dtype, bits: Tensor) -> Tensor:
    """Float32 ``x`` rounded to bfloat16, up or down with the probability that makes the mean exact.

    Adds 16 random bits below bfloat16's last one and cuts the rest off; infinities and NaN pass unchanged.
    """
    if dtype is not torch.bfloat16:
        raise ValueError(f"stochastic rounding is for bfloat16 parameters, not {dtype}")
    raw = x.view(torch.int32)
    rounded = ((raw + (bits & 0xFFFF).to(torch.int32)) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(x), rounded, x).to(dtype)
