"""The log events of recording option quotes next to a desk."""

from __future__ import annotations

from daemon.operator.log_event import LogEvent

RECORDING_EVENTS: dict[str, LogEvent] = {
    "recording_started": LogEvent(
        "info", ("contracts", "room"), "A session's option quotes are recorded: contracts now, and those it may add."
    ),
    "recording_narrowed": LogEvent(
        "warning",
        ("reason", "before", "room"),
        "Fewer contracts are recorded from here on, so that the desk has the stream and the processor.",
    ),
    "recording_stopped": LogEvent(
        "warning", ("reason",), "Recording ended for this session: disk full or slow, or a fault. The desk goes on."
    ),
    "recording_unfinished": LogEvent(
        "warning",
        ("reason",),
        "The minutes of an earlier session became no file: they or its former file are damaged. This one is recorded.",
    ),
    "recording_finished": LogEvent(
        "info", ("file", "rows", "minutes", "damaged"), "A session's file of option quotes is whole."
    ),
}
