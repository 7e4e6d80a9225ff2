"""JSON Schemas of what programs read: one file for each structure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a structure (JSON Schema 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as its file holds it."""
    return json.dumps(schema, indent=2) + "\n"


def write(files: Mapping[str, str], arguments: list[str]) -> None:
    """Write files by name into the named folder, or where they are published."""
    folder = Path(arguments[0]) if arguments else SCHEMAS
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
