"""Reports of races: a page, image files, a table for the terminal."""

from thalweg.report.figures import write_figures
from thalweg.report.html import write_report
from thalweg.report.table import race_table

__all__ = ["race_table", "write_figures", "write_report"]
