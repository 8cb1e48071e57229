"""A matplotlib figure as an SVG element that belongs to the page: its colours, its type, its recipe marks."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

from markupsafe import Markup

from thalweg.report.canvas import IMAGE_ONLY, TITLE, WIDTH, Plot, drawing
from thalweg.report.palette import VARIABLES

_DECIMAL = re.compile(r"-?\d+\.\d+")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_SLOT = re.compile(r"r(\d+)")
_KEEP = {"target"}


def inline_svg(plot: Plot) -> Markup:
    """``plot`` as one ``<svg>`` element for the body of an HTML page.

    Text stays text, in the page's type; colours become CSS variables, so that light and dark mode apply; groups of a recipe
    carry ``data-r``, its slot; title and legend of image files are left out. The tree is parsed and written anew, so whatever
    the figure's texts hold is escaped and nothing but drawing elements is left.
    """
    buffer = io.BytesIO()
    with drawing(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        plot.savefig(buffer, format="svg", facecolor="none", edgecolor="none")
    # The text is matplotlib's own output of a moment ago, without entities, so the standard parser is enough.
    root = ElementTree.fromstring(re.sub(rb"<!DOCTYPE[^>]*>", b"", buffer.getvalue(), count=1))
    prefix = f"{plot.key}-"
    _tidy(root, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("viewBox", f"0 {TITLE:g} {WIDTH:g} {plot.body:g}")
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}title {prefix}desc")
    title = ElementTree.Element("title", {"id": f"{prefix}title"})
    title.text = plot.title
    described = ElementTree.Element("desc", {"id": f"{prefix}desc"})
    described.text = plot.description
    root[:0] = [title, described]
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def hover_data(plot: Plot) -> str:
    """The values that the plot shows, one a line: x and y in the SVG's coordinates, slot and text, with tabs between."""
    with drawing():
        height = plot.get_figheight() * 72
        rows = []
        for point in plot.points:
            x, y = point.axes.transData.transform((point.x, point.y)) * (72 / plot.dpi)
            rows.append(f"{x:.1f}\t{height - y:.1f}\t{point.slot}\t{' '.join(point.text.split())}")
    return "\n".join(rows)


def _tidy(element: ElementTree.Element, prefix: str) -> None:
    """Strip what the page doesn't need, in place: namespaces, metadata, ids, fonts, invisible boxes, digits."""
    for child in list(element):
        if not isinstance(child.tag, str) or _dropped(child):
            element.remove(child)
            continue
        _tidy(child, prefix)
    element.tag = element.tag.rsplit("}", 1)[-1]
    element.text = element.text if element.tag == "text" else None
    element.tail = None
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        kept = _attribute(element.tag, name.rsplit("}", 1)[-1], value, prefix)
        if kept is not None:
            element.set(*kept)
    # Groups without a meaning of their own only add weight.
    for i, child in reversed(list(enumerate(element))):
        if child.tag in ("g", "defs") and not child.attrib and (child.tag == "g" or not len(child)):
            element[i : i + 1] = list(child)


def _dropped(element: ElementTree.Element) -> bool:
    tag = element.tag.rsplit("}", 1)[-1]
    if tag in ("metadata", "style") or element.get("id") == IMAGE_ONLY:
        return True
    style = element.get("style", "")
    return tag == "path" and "fill: none" in style and "stroke" not in style


def _attribute(tag: str, name: str, value: str, prefix: str) -> tuple[str, str] | None:
    if name == "id":
        if slot := _SLOT.fullmatch(value):
            return "data-r", slot[1]
        if value in _KEEP:
            return "class", value
        return ("id", prefix + value) if tag in ("path", "clipPath") else None
    if name == "href":
        return name, "#" + prefix + value.removeprefix("#")
    if name == "clip-path":
        return name, value.replace("url(#", f"url(#{prefix}")
    if name == "transform" and value.startswith("rotate(-0 "):
        return None
    if name == "style":
        return name, _style(value)
    if name in ("d", "x", "y", "width", "height", "points", "viewBox", "transform"):
        return name, _DECIMAL.sub(_rounded, re.sub(r"\s+", " ", value)).strip()
    return name, value


def _style(value: str) -> str:
    """Inline style with CSS variables for the palette's colours and without a font family."""
    parts = [part.strip() for part in value.split(";")]
    parts = [part for part in parts if part and not part.startswith("font-family")]
    text = ";".join(re.sub(r":\s+", ":", part) for part in parts)
    return _COLOUR.sub(lambda m: f"var({VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], text)


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
