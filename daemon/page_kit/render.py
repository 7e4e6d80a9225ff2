"""Render templates to pages. Everything that is not markup is escaped; a missing name is an error.

A page extends `layout.html` and takes tables and figures from `blocks.html`. Same values, same bytes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

KIT = Path(__file__).parent


def render(template: Path, **values: object) -> str:
    """Return a page of the template with these values. Raises ValueError for a missing value or a broken template."""
    from jinja2 import TemplateError  # 9 MB that a daemon may not need

    try:
        return _environment(template.parent).get_template(template.name).render(values)
    except TemplateError as error:
        raise ValueError(f"{template.name}: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=8)
def _environment(folder: Path) -> Environment:
    """Return the templates of a folder, each compiled once, and again when its file changes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, KIT]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment
