"""Performance profiles over several races: a plot and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from thalweg.race.profiles import TAU_MAX, Against, Profile
from thalweg.report.canvas import WIDTH, Legend, Plot, drawing, set_ticks
from thalweg.report.numbers import interval, ratio
from thalweg.report.palette import mark
from thalweg.report.text import clean, count

_LEFT, _TOP, _HEIGHT, _BOTTOM = 40.0, 26.0, 212.0, 38.0
_APART = 0.005
"""Lines that would lie upon each other are this far apart, in shares of the height."""


def profile_curves(found: Sequence[Profile], against: Against = "steps", tau_max: float = TAU_MAX) -> Plot:
    """The share of races in which each recipe is within a factor of the best one, against that factor.

    Args:
        found: profiles, as :func:`thalweg.race.profiles.profiles` gives them; the first ones lie on top.
        against: what time was counted in.
        tau_max: where the axis ends.
    """
    shown = [(profile, mark(place)) for place, profile in enumerate(found)]
    races = len(found[0].ratios)
    with drawing():
        legend = Legend([(profile.recipe, look) for profile, look in shown])
        plot = Plot("profile", f"Performance profiles over {count(races, 'race')}", _TOP + _HEIGHT + _BOTTOM, legend)
        axes = plot.panel(_LEFT, _TOP, WIDTH - _LEFT - 12, _HEIGHT)
        for place, (profile, look) in reversed(list(enumerate(shown))):
            taus, shares = steps_of(profile, tau_max)
            lifted = [share + _APART * ((len(shown) - 1) / 2 - place) for share in shares]
            axes.plot(taus, lifted, color=look.colour, linestyle=look.linestyle, linewidth=1.7, gid=f"r{look.index}",
                      drawstyle="steps-post", marker=look.marker, markersize=4.6, markeredgewidth=0)  # fmt: skip
            for tau, share in zip(taus[:-1], shares, strict=False):
                plot.say(axes, tau, share, look.index, f"within {tau:.2f} times the best: {share:.0%} of races")
        axes.set_xscale("log")
        axes.set_xlim(0.98, 1.02 * tau_max)
        axes.set_ylim(-0.08, 1.08)
        set_ticks(axes, "x", [tau for tau in (1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 10) if tau <= tau_max])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25%", "50%", "75%", "100%"])
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{against} to the target, as a multiple of the best recipe's")
        axes.annotate("races", (-_LEFT, _HEIGHT + 12), xycoords="axes points", ha="left")
    plot.description = "; ".join(
        f"{profile.recipe}: score {profile.score:.2f}, {profile.share(tau_max):.0%} of races within {tau_max:g}"
        for profile in found
    )
    return plot


def steps_of(profile: Profile, tau_max: float) -> tuple[list[float], list[float]]:
    """Where the profile rises, and to what; from 1 to ``tau_max``.

    Example:
        >>> steps_of(Profile("lion", {"a": 2.0, "b": 1.0}, 5 / 6), 4.0)
        ([1.0, 2.0, 4.0], [0.5, 1.0, 1.0])
    """
    rises = sorted({1.0, tau_max, *(r for r in profile.ratios.values() if r <= tau_max)})
    return rises, [profile.share(tau) for tau in rises]


def profile_table(found: Sequence[Profile], against: Against = "steps", tau_max: float = TAU_MAX) -> Table:
    """Score, interval, and the ratio to the best recipe in every race; the highest score first."""
    table = Table(
        title=Text(f"score over {count(len(found[0].ratios), 'race')}, by {against} to the target", style="bold"),
        caption=Text(
            f"score: area below the performance profile up to {tau_max:g} times the best, 1 for the best in every race; "
            f"in brackets 95% over the seeds. The other columns: times the best recipe's {against}",
            style="dim",
        ),
    )
    table.add_column("recipe", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for race in found[0].ratios:
        table.add_column(Text(clean(race)), justify="right")
    for profile in found:
        span = interval(profile.score_ci, "{:.2f}".format)
        score = f"{profile.score:.2f}" + (f" ({span})" if span else "")
        ratios = [ratio(value) if math.isfinite(value) else "not reached" for value in profile.ratios.values()]
        table.add_row(*map(Text, (clean(profile.recipe), score, *ratios)))
    return table
