"""A matplotlib figure as SVG that fits any page.

Text stays text in the reader's own font; ids clash with no other figure's; no style leaks out of it. Colours are
attributes, which every program knows, and a rule by attribute turns them into those for dark screens: an SVG with
style variables would be black in programs that are no browser.
"""

from __future__ import annotations

import hashlib
import io
import re
from xml.etree import ElementTree

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, RULE, GROUND = "#1b1f24", "#57606a", "#dce0e5", "#ffffff"
# By luminance too each is at least 4.5 : 1 on its ground; the first three are told apart by colour-blind readers, the
# others by their markers.
SERIES = ("#0068a3", "#b8450a", "#00734f", "#9a4585", "#805a00", "#4a5560")
_DARK = {
    INK: "#e4e8ed",
    MUTED: "#a1abb6",
    RULE: "#323943",
    GROUND: "#1a1e24",
    **dict(zip(SERIES, ("#6cb8ee", "#f29457", "#4cc9a0", "#e09bcb", "#dfb44c", "#b4bec9"), strict=True)),
}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
# Printed figures are light: paper is.
_STYLE = (
    f".plot{{font-variant-numeric:tabular-nums;background:{GROUND}}}@media screen and (prefers-color-scheme:dark){{"
    f".plot{{background:{_DARK[GROUND]}}}"
    + "".join(
        f'.plot [{part}="{light}"]{{{part}:{dark}}}' for light, dark in _DARK.items() for part in ("fill", "stroke")
    )
    + "}"
)
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_DECIMALS = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_NUMERIC = {"d", "x", "y", "transform", "width", "height", "font-size", "stroke-width", "stroke-dasharray"}
_REFERENCE = re.compile(r"(url\(#|#(?=[^#]+$))([mp][0-9a-f]+)(\)?)$")


def to_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element; a unit of its view box is a CSS pixel. Knows the colours above alone."""
    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata=_NO_METADATA)
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        # Its rule is for every element of the page that the SVG is put into.
        for child in [child for child in parent if _local(child.tag) in ("style", "metadata")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        _tidy(element)
    for path in root.iterfind(".//defs/path"):
        # Whatever uses it says both; inside a <use> no rule for dark screens would find them.
        path.attrib.pop("fill", None)
        path.attrib.pop("stroke", None)
    _drop_empty(root)
    _rename_ids(root)
    body = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONTS}" stroke-linejoin="round">'
        f"<style>{_STYLE}</style>{body}</svg>\n"
    )


def _tidy(element: ElementTree.Element) -> None:
    """Styles as attributes, numbers short, no text but that of labels."""
    attributes: dict[str, str] = {}
    for name, value in element.attrib.items():
        if name == "style":
            for declaration in value.split(";"):
                key, _, setting = (part.strip() for part in declaration.partition(":"))
                if key and key != "font-family":
                    attributes[key] = setting
        elif not value.startswith("rotate(-0 "):
            attributes[_local(name)] = value
    for name in _NUMERIC & attributes.keys():
        attributes[name] = _DECIMALS.sub(_shortened, " ".join(attributes[name].split()))
    element.attrib.clear()
    element.attrib.update(attributes)
    if element.tag != "text":
        element.text = None
    element.tail = None


def _shortened(match: re.Match[str]) -> str:
    return f"{round(float(match[0]), 2):.10g}"


def _rename_ids(root: ElementTree.Element) -> None:
    """Ids that nothing refers to go; the others get a prefix of this figure: all figures of a page share their ids."""
    digest = hashlib.sha256(ElementTree.tostring(root)).hexdigest()[:8]
    used = {
        match[2] for element in root.iter() for value in element.attrib.values() if (match := _REFERENCE.match(value))
    }
    for element in root.iter():
        if element.attrib.get("id", "") not in used:
            element.attrib.pop("id", None)
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"f{digest}-{value}")
            elif match := _REFERENCE.match(value):
                element.set(name, f"{match[1]}f{digest}-{match[2]}{match[3]}")


def _drop_empty(element: ElementTree.Element) -> None:
    for child in list(element):
        _drop_empty(child)
        if child.tag in ("g", "defs") and not len(child):
            element.remove(child)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
