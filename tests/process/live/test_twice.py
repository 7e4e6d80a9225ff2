"""The same forty minutes lived twice: in virtual time the same things happen at the same nanosecond, in the same order.

What may differ is what a desk draws for itself: its epoch, and so the names of its orders.
"""

from __future__ import annotations

import json
from pathlib import Path

from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from tests.support.desks.stage import Tape, new_york_ns, stage

DAY = "2024-10-29"


def run_session(tape: Tape, models: Path, folder: Path) -> list[tuple[str, int]]:
    """Kind and time of every event of the journal, from 10:00 to 10:40."""
    with stage(tape, DAY, "10:00", folder, models) as desk:
        desk.start()
        desk.until_time(new_york_ns(DAY, "10:40"))
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(30) == 0, desk.log()[-2000:]
        reader = JournalReader(desk.state_dir / FILE)
        try:
            rows = reader.query("SELECT kind, payload FROM events ORDER BY id")
        finally:
            reader.close()
    return [(row["kind"], json.loads(row["payload"])["time_ns"]) for row in rows]


def test_the_same_session_twice_journals_the_same_events_at_the_same_times(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    first = run_session(bundled, lively, tmp_path / "first")
    assert "OrderFilled" in {kind for kind, _ in first}
    assert run_session(bundled, lively, tmp_path / "second") == first
