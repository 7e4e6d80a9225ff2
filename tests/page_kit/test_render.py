"""A page escapes what it is given, and a template that lacks a value makes no page."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from markupsafe import Markup

from daemon.page_kit.render import render
from tests.support.paths import REPOSITORY

HOSTILE = "<script>alert(1)</script>&\"'"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;"
PAGE = """{% extends "layout.html" %}{% from "blocks.html" import figure, table %}
{% block title %}{{ title }}{% endblock %}
{% block main %}{{ table((title,), rows, "words") }}{{ figure(plot, title) }}{% endblock %}"""


def template(folder: Path, text: str) -> Path:
    path = folder / "page.html"
    path.write_text(text)
    return path


def test_text_is_escaped_wherever_it_stands_and_markup_stays_markup(tmp_path: Path) -> None:
    rows = [(HOSTILE, f"large\n{HOSTILE}", Markup("<b>bold</b>"))]
    page = render(template(tmp_path, PAGE), title=HOSTILE, rows=rows, plot=Markup("<svg></svg>"))
    assert "<script" not in page
    assert f"<title>{ESCAPED}</title>" in page
    assert f'<th scope="col">{ESCAPED}</th>' in page
    assert f'<th scope="row">{ESCAPED}</th><td>large <small>{ESCAPED}</small></td><td><b>bold</b></td>' in page
    assert f"<svg></svg>\n<figcaption>{ESCAPED}</figcaption>" in page


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    path = template(tmp_path, PAGE)
    assert len({render(path, title="a", rows=[("b", "c")], plot=None) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{{ missing }}", "'missing' is undefined"),
        ("{{ title.missing }}", "no attribute 'missing'"),
        ("{% if missing %}{% endif %}", "'missing' is undefined"),
        ("{% if %}", "TemplateSyntaxError"),
        ('{% extends "layout.html" %}', "Required block 'title' not found"),
        ('{% include "elsewhere.html" %}', "'elsewhere.html' not found"),
    ],
)
def test_a_template_that_lacks_something_makes_no_page(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        render(template(tmp_path, text), title="a")


def test_every_template_is_in_the_wheel() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packaged = project["tool"]["setuptools"]["package-data"]
    templates = [path for room in ("daemon", "training") for path in (REPOSITORY / room).rglob("*.html")]
    assert len(templates) >= 6
    for path in templates:
        named = [
            (REPOSITORY.joinpath(*package.split(".")), glob)
            for package, globs in packaged.items()
            if package != "*"
            for glob in globs
        ]
        assert any(path in folder.glob(glob) for folder, glob in named), path
