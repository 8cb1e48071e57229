"""Verdicts as readers see them: a word, a shape and a tone, so that none depends on colour alone."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.claims.engine.contract import Verdict


@dataclass(frozen=True)
class Badge:
    """One kind of verdict.

    Args:
        key: its name in addresses and style sheets.
        word: what the badge says.
        tone: "good", "fair", "bad" or "plain".
        shape: its mark as SVG path data in a 16 x 16 box, filled by the even-odd rule.
        meaning: one sentence for the page about verdicts.
    """

    key: str
    word: str
    tone: str
    shape: str
    meaning: str


_DISC = "M8 1A7 7 0 1 1 8 15A7 7 0 1 1 8 1Z"
_RING = _DISC + "M8 2.6A5.4 5.4 0 1 0 8 13.4A5.4 5.4 0 1 0 8 2.6Z"

BADGES = (
    Badge(
        "reproduced", "reproduced", "good", _DISC + "M6.9 11.6L12 6.4L10.8 5.2L6.9 9.2L5.2 7.5L4 8.7Z",
        "What the paper says came out, by the rule that was written before.",
    ),
    Badge(
        "partly", "partly", "fair", _RING + "M8 3.6A4.4 4.4 0 0 1 8 12.4Z",
        "A part of the claim came out, or it came out under some of the conditions; the reason names them.",
    ),
    Badge(
        "not-reproduced", "not reproduced at this scale", "bad",
        "M5 1H11L15 5V11L11 15H5L1 11V5ZM5.6 4.4L4.4 5.6L6.8 8L4.4 10.4L5.6 11.6L8 9.2L10.4 11.6L11.6 10.4L9.2 8L11.6 5.6"
        "L10.4 4.4L8 6.8Z",
        "It did not come out in an experiment that could have shown it. A larger one may still show it.",
    ),
    Badge(
        "not-testable", "not testable at this scale", "plain", _RING + "M4.8 7.2H11.2V8.8H4.8Z",
        "The experiment can't tell: all methods do equally well or badly, or what the claim presupposes is absent.",
    ),
    Badge(
        "needs-accelerator", "needs an accelerator", "plain", "M9.5 0.8L3 9.2H7.2L6 15.2L13 6.4H8.6Z",
        "The smallest experiment that says something needs a GPU.",
    ),
)  # fmt: skip

NONE = Badge(
    "none", "no verdict yet", "plain", "M8 4.5A3.5 3.5 0 1 1 8 11.5A3.5 3.5 0 1 1 8 4.5ZM8 6A2 2 0 1 0 8 10A2 2 0 1 0 8 6Z",
    "Nobody has run the claim here yet.",
)  # fmt: skip

_BY_WORD = {badge.word: badge for badge in BADGES}


def badge(verdict: Verdict | None) -> Badge:
    """The badge of a verdict, or of none.

    Raises:
        ValueError: a verdict of another word.
    """
    if verdict is None:
        return NONE
    if verdict.word not in _BY_WORD:
        raise ValueError(f"unknown verdict {verdict.word!r} (choose from {', '.join(_BY_WORD)})")
    return _BY_WORD[verdict.word]
