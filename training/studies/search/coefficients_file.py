"""A file of coefficients: JSON with the fields of a plan that differ from a preset's.

Invariant: what is read is whole, of the right types and within bounds, or an error names the field and the cure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from daemon.host.whole_files import write_whole
from training.rl.dimensions import Plan

P = TypeVar("P", bound=Plan)
COEFFICIENTS_FILE = "coefficients.json"


def write_values(path: Path, values: Mapping[str, Any]) -> None:
    """Put fields by their names at `path`, whole or not at all. Raises `OSError`."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(values), indent=1) + b"\n")


def read_plan(path: Path, usual: P) -> P:
    """The usual plan with the values of a file, for what it names.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or a field is unknown, of the wrong type or out of bounds.
    """
    return usual.changed(_object(path), str(path))


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is not a file of coefficients: {error}; expected a JSON object such as {{"learning_rate": 0.0003}}'
        ) from error
