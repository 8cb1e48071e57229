"""Halves of halves add up to one."""

from __future__ import annotations

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Scale, Verdict

RULE = "Reproduced: the sum of 40 halves is within 1e-9 of 1."
SCALES = {"smoke": Scale((7,), 0.1), "cpu": Scale((7, 8), 0.2)}
PANELS = (Panel("sum", "Sums", "terms", "sum"),)


def run(scale, seed, *, report):
    sums = [1 - 0.5**n for n in range(1, 41)]
    return Measurement({"sum": sums[-1]}, (Curve("sum", "halves", tuple(range(1, 41)), tuple(sums)),))


def judge(measurements):
    off = max(abs(m.numbers["sum"] - 1) for m in measurements)
    return Verdict("reproduced" if off < 1e-9 else "not reproduced at this scale", f"off by {off:.1g} (1e-9)")
