"""The reading list as static pages."""

from thalweg.report.site.build import Built, build
from thalweg.report.site.entries import Check
from thalweg.report.site.folder import SiteError
from thalweg.report.site.races import Race, find_races

__all__ = ["Built", "Check", "Race", "SiteError", "build", "find_races"]
