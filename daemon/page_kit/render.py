"""Templates to pages. Everything that is not markup is escaped; a name that is missing is an error.

A page extends `layout.html` and takes tables and figures from `blocks.html`. Same values, same bytes.
"""

from __future__ import annotations

from pathlib import Path

KIT = Path(__file__).parent


def render(template: Path, **values: object) -> str:
    """A page of the template with these values. Raises ValueError for a template that lacks one, or is broken."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError  # 9 MB that a daemon may not need

    environment = Environment(
        loader=FileSystemLoader([template.parent, KIT]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    try:
        return environment.get_template(template.name).render(values)
    except TemplateError as error:
        raise ValueError(f"{template.name}: {type(error).__name__}: {error}") from error
