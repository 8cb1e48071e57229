"""The reading list as data: ``papers.toml``, one entry a paper, the single source of truth of what exists."""

from thalweg.catalog.paper import SEAMS, Paper

__all__ = ["SEAMS", "Paper"]
