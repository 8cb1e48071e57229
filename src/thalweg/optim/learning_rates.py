"""A learning rate for one rule, given another rule's: ratios measured on small trainings, where they support it."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from thalweg.optim.factory import list_optimizers
from thalweg.registry import unknown


def suggest_lr(from_: str = "adamw", to: str = "lion", *, lr: float, extrapolate: bool = False) -> float:
    r"""A learning rate for the rule ``to``, where ``lr`` was good for the rule ``from_``.

    .. math:: \eta_{\text{to}} = r \eta_{\text{from}}

    The ratio r is that of the best learning rates of the two, a geometric mean over small trainings of three families of tasks. It is
    given only where a rule that was written down before the measurement finds that it carries over to a family that it wasn't fitted
    on: see the guide on learning rates, and ``benchmarks/learning_rates.py``. It is a start for a search over about a factor of three
    to both sides, not the end of one. Best rates were those of a short warm-up and a cosine to 0, without weight decay; with decoupled
    decay scale ``weight_decay`` by 1 / r, so that its product with the learning rate stays as it was.

    Rules that leave some parameters to AdamW, such as Muon, keep AdamW's own learning rate for them: the result is for ``lr``, and
    ``rest_lr`` is the rate of AdamW.

    Args:
        from_: name of the rule whose learning rate is known (default "adamw"); see :func:`thalweg.optim.list_optimizers`.
        to: name of the other rule. One of the two must be "adamw".
        lr: the learning rate, at the height of its schedule.
        extrapolate: allow an ``lr`` outside of the range over which the ratio was measured (default False).

    Returns:
        The suggested learning rate.

    Raises:
        ValueError: an unknown rule; a pair that wasn't measured, or whose measurement doesn't support a suggestion; an ``lr`` that
            isn't positive, or that lies outside of the measured range.

    Example:
        >>> from thalweg.optim import suggest_lr
        >>> suggest_lr("adamw", to="adamw", lr=0.003)
        0.003
    """
    if not lr > 0:
        raise ValueError(f"lr must be a number > 0, not {lr!r}")
    for name in (from_, to):
        if name not in list_optimizers():
            raise ValueError(unknown("optimizer", name, list_optimizers()))
    if from_ == to:
        return lr
    found = measured_ratios()["pairs"].get(from_, {}).get(to)
    if found is None:
        raise ValueError(f"the pair {from_}, {to} wasn't measured, only pairs with adamw are: {_instead(from_, to)}")
    if not found["supported"]:
        raise ValueError(
            f"the measurement supports no learning rate of {to} from that of {from_} ({found['why']}): "
            f"{_instead(from_, to)}"
        )
    low, high = found["range"]
    if not (low <= lr <= high or extrapolate):
        raise ValueError(
            f"lr={lr:g} lies outside of {low:g} to {high:g}, where the ratio of {to} to {from_} was measured: "
            f"give extrapolate=True to use it all the same, and search a factor of {max(3.0, found['spread']):.2g} to both sides"
        )
    return float(f"{lr * found['ratio']:.3g}")


@cache
def measured_ratios() -> dict[str, Any]:
    """What ``benchmarks/learning_rates.py`` wrote; ``["pairs"][from_][to]`` holds ratio, spread, range, supported and why.

    Raises:
        ValueError: it wasn't run yet.
    """
    file = resources.files("thalweg.optim").joinpath("learning_rates.json")
    if not file.is_file():
        raise ValueError(
            "no ratios have been measured yet: run python benchmarks/learning_rates.py in the source checkout"
        )
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _instead(from_: str, to: str) -> str:
    return f"search over {to}'s own range instead, as in thalweg race {from_} {to}"
