"""Reading a page as a strict parser does: tags nest, ids are unique, charts are well-formed."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

VOID = {"meta", "link", "br", "img", "input"}


class PageReader(HTMLParser):
    """Collects tags, ids, links and text; raises where tags do not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def read(html: str) -> PageReader:
    """Parse a whole page."""
    reader = PageReader()
    reader.feed(html)
    reader.close()
    assert not reader.open, f"left open: {reader.open}"
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "an id occurs twice"
    return reader


def charts(html: str) -> list[Element]:
    """Every chart of a page, parsed as XML."""
    found, start = [], html.find("<svg")
    while start >= 0:
        end = html.index("</svg>", start) + len("</svg>")
        found.append(ElementTree.fromstring(html[start:end]))
        start = html.find("<svg", end)
    return [svg for svg in found if svg.get("class") == "chart"]


def hovers(svg: Element | str) -> list[str]:
    """Hover texts of a chart's marks, in order."""
    root = ElementTree.fromstring(svg) if isinstance(svg, str) else svg
    marks = [element for element in root.iter("g") if "data-mark" in element.attrib]
    return [mark.findtext("title") or "" for mark in marks]
