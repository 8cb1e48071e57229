"""The error of problems without a solution."""


class InfeasibleError(ValueError):
    """A problem that was asked to be solved has no solution; the message says what rules it out."""
