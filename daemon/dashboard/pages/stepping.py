"""Step rows of a journal again: a row, its questions, the file that holds a decision."""

from __future__ import annotations

from pathlib import Path

from daemon.core.effects import AskPolicy
from daemon.core.machine import Divergence, Machine
from daemon.core.step import Step
from daemon.engine.recovery import adopt_trading, leave_out
from daemon.engine.segments import part_of
from daemon.journal.reader import JournalReader
from daemon.journal.rows import Entry, decode_event, encode_effects


def describe(error: Exception) -> str:
    """Describe the error without a path of this host."""
    return str(error)[:200] if isinstance(error, Divergence) else type(error).__name__


def file_of(reader: JournalReader, decision: int) -> Path:
    """Return the file with the decision's events; after a rotation it may be a former one."""
    rows = reader.query("SELECT time_ns FROM decisions WHERE decision = ?", (decision,))
    return part_of(reader.path, rows[0]["time_ns"]) if rows else reader.path


def stepped(machine: Machine, entry: Entry) -> Step | None:
    """Step the row again; None for a row that left nothing. Raises Divergence if the effects differ."""
    if entry.raised:
        return None
    event = decode_event(entry.payload)
    if entry.quarantined:
        leave_out(machine, event)
        return None
    step = machine.reapply(event)
    if encode_effects(step.effects) != entry.effects:  # an observation stands in it by its digest
        raise Divergence(f"other code wrote event row {entry.id} ({entry.kind}): its effects differ")
    if entry.kind == "RunStarted":
        adopt_trading(machine)
    return step


def questions(step: Step | None) -> list[AskPolicy]:
    return [effect for effect in step.effects if isinstance(effect, AskPolicy)] if step is not None else []
