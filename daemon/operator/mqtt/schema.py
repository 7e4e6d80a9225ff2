"""JSON Schemas of what programs read: one for each structure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a structure (JSON Schema 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as its file holds it."""
    return json.dumps(schema, indent=2) + "\n"
