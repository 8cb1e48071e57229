"""Pages of the documentation whose tables are made from measurements: text between two comments is replaced, the rest stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def with_tables(page: str, kind: str, tables: Mapping[str, Sequence[str]]) -> str:
    """``page`` with every table put between ``<!-- KIND: NAME -->`` and ``<!-- end of NAME -->``, in the place of what is there.

    Args:
        page: Markdown.
        kind: what its first comments begin with.
        tables: lines by name.

    Raises:
        ValueError: the page lacks one of the comments.

    Example:
        >>> print(with_tables("Rates:\\n<!-- measured: rates -->\\nold\\n<!-- end of rates -->", "measured", {"rates": ["new"]}))
        Rates:
        <!-- measured: rates -->
        new
        <!-- end of rates -->
    """
    for name, lines in tables.items():
        start, end = f"<!-- {kind}: {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(start)
        if not found or end not in rest:
            raise ValueError(f"the page has no place for the table {name!r}: it needs {start.strip()} and {end}")
        page = before + start + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    return page
