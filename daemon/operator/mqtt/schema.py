"""JSON Schemas of the structures that programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from strategies.kit.quantity import Quantity


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a structure (JSON Schema 2020-12)."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **msgspec.json.schema(kind, schema_hook=_of_quantity)}


def _of_quantity(kind: Any) -> dict[str, Any]:
    """Return the schema of a quantity: an integer, or a fraction as plain text."""
    if kind is not Quantity:
        raise NotImplementedError(kind)
    return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^-?\d+\.\d{1,9}$"}]}


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema, indent=2) + "\n"
