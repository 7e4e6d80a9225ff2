"""The words of a report's page, as a reader meets them; a page whose tags do not nest is an error."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br"}


class _Reader(HTMLParser):
    """Checks that tags nest and keeps the words outside of head, style and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element of a picture."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"head", "svg"} & {*self.open} and data.strip():
            self.words.append(data.strip())


def page_words(page: str) -> str:
    """All words outside of head, style and pictures, in their order."""
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return " ".join(reader.words).replace("\N{NO-BREAK SPACE}", " ")
