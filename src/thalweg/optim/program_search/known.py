"""Programs that are known: where the search starts, and what it found (arXiv:2302.06675)."""

from __future__ import annotations

from thalweg.optim.program_search.program import Program

ADAMW = Program.parse(
    """
    g2 = square(g)
    m = interp(g, m, 0.9)
    v = interp(g2, v, 0.999)
    s = sqrt(v)
    u = m / s
    wd = w * 0.01
    u = u + wd
    lr = lr * 0.001
    update = u * lr
    """
)
"""AdamW without bias correction and epsilon: where the search starts."""

LION = Program.parse(
    """
    c = interp(g, m, 0.9)
    c = sign(c)
    m = interp(g, m, 0.99)
    wd = w * 0.1
    u = c + wd
    lr = lr * 0.0001
    update = u * lr
    """
)
"""Lion, with weight decay 0.1."""

RAW_LION = Program.parse(
    """
    g = clip(g, lr)
    g = arcsin(g)
    m = interp(g, v, 0.899)
    m2 = m * m
    v = interp(g, m, 1.109)
    a = sqrt(m2)
    u = m / a
    wd = 0.4602 * w
    u = u + wd
    lr = lr * 0.0002
    m = cosh(u)
    update = u * lr
    """
)
"""What the paper's search found, before it was simplified to Lion."""
