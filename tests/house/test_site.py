"""The build of the site: what its last check finds in pages, and how a notebook becomes a page."""

from __future__ import annotations

import base64
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import REPOSITORY

SITE = REPOSITORY / "docs" / "site"


@pytest.fixture(scope="module")
def build() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        yield runpy.run_path(str(SITE / "make_site.py"))
    sys.modules.pop("reference", None)


def test_links_that_lead_nowhere_and_what_another_host_would_serve_are_found(
    build: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1><a href="docs/b.html#here">1</a><a href="#top">2</a><a href="https://example.org/x">3</a>'
        '<a href="docs/c.html">4</a><a href="docs/b.html#there">5</a><a href=".">6</a><img src="a.png">'
        '<script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "docs" / "b.html").write_text('<h2 id="here">B</h2><a href="../index.html#top">1</a>')
    assert build["faults"](tmp_path) == [
        "index.html would fetch https://example.org/x.js",
        "index.html leads to docs/c.html, which is not there",
        "index.html leads to docs/b.html#there, which is not there",
        "index.html leads to a.png, which is not there",
    ]


def test_a_notebook_becomes_a_page_with_its_outputs(build: dict[str, Any], tmp_path: Path) -> None:
    picture = base64.b64encode(b"a picture").decode()
    table = '<table border="1" class="dataframe"><tr style="x"><td>1</td></tr></table>'
    table = f"<div>\n<style scoped>\n</style>\n{table}</div>"
    outputs = [
        {"output_type": "stream", "text": ["two\n", "lines\n"]},
        {"output_type": "display_data", "data": {"image/png": picture, "text/plain": ["a curve"]}},
        {"output_type": "execute_result", "data": {"text/html": [table], "text/plain": ["1"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# T\n", "[next](other.ipynb)"]},
        {"cell_type": "code", "id": "n-1", "source": ["x = 1"], "outputs": outputs},
    ]
    assert build["_of_notebook"]({"cells": cells}, tmp_path / "n.md") == (
        "# T\n[next](other.md)\n\n```python\nx = 1\n```\n\n```text\ntwo\nlines\n```\n\n![a curve](n-n-1-1.png)\n\n"
        "<table><tr><td>1</td></tr></table>\n"
    )
    assert (tmp_path / "n-n-1-1.png").read_bytes() == b"a picture"
