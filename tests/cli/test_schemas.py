"""What a command's `--json` prints has a published schema in `docs/schemas`."""

from __future__ import annotations

from daemon.cli.journal.schemas import PREFIXES, schemas
from daemon.operator.mqtt.schema import SCHEMAS


def test_the_published_schemas_are_those_of_what_is_printed() -> None:
    published = {path.name: path.read_text() for path in SCHEMAS.iterdir() if path.name.startswith(PREFIXES)}
    assert published == schemas(), "python -m daemon.cli.journal.schemas writes them"
