"""The reading list as data: ``papers.toml``, one entry a paper, the single source of truth of what exists.

Beside it: :func:`thalweg.catalog.status.status`, how far a paper has come, and :func:`thalweg.catalog.search.search`.
"""

from thalweg.catalog.load import CatalogError, lookup, papers
from thalweg.catalog.paper import SEAMS, Finding, Paper

__all__ = ["SEAMS", "CatalogError", "Finding", "Paper", "lookup", "papers"]
