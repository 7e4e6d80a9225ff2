"""The log events of the publisher and of the trainer, which are separate processes."""

from __future__ import annotations

from daemon.operator.log_event import LogEvent

ONLINE_EVENTS: dict[str, LogEvent] = {
    "publisher_started": LogEvent(
        "info", ("redis", "state_dir"), "`rltrader-publisher` carries this desk's experience to this Redis."
    ),
    "experience_published": LogEvent(
        "info", ("entries", "row"), "Entries since the last such line, and the newest row in the stream; once a minute."
    ),
    "experience_delayed": LogEvent(
        "warning",
        ("problem",),
        "Redis or the journal cannot be used: nothing is published until it can; tried again, at last every 30 s.",
    ),
    "experience_resumed": LogEvent("info", ("row",), "Publishing goes on; `row` is the newest in the stream."),
    "experience_resent": LogEvent(
        "warning",
        ("after", "until"),
        "The stream lost entries (emptied, or restored): the experience after row `after` is sent again.",
    ),
    "experience_missing": LogEvent(
        "warning",
        ("before",),
        "Rows before this one gave no experience: other code wrote them, or their file is gone.",
    ),
    "experience_new_journal": LogEvent(
        "warning", ("problem",), "A journal of another epoch took the old one's place: it has a stream of its own."
    ),
    "trainer_started": LogEvent(
        "info",
        ("desk", "redis", "store", "own_dir"),
        "`rltrader-trainer` learns from this desk's experience; its versions go into this store.",
    ),
    "cold_start": LogEvent(
        "info", ("figures",), "The first model is being made from recorded bars; its newest update, once a minute."
    ),
    "stream_found": LogEvent("info", ("stream",), "The desk's newest stream, from which it learns from here on."),
    "learning_not_shown": LogEvent(
        "warning", ("problem",), "What the dashboard shows of learning cannot be written; learning goes on."
    ),
    "version_published": LogEvent(
        "info",
        ("version", "parent", "sessions", "effective", "cannot_be_said", "leads"),
        "A version is in the store with its card: the sessions of its log, effective episodes, and its leads over the "
        "parent by estimator, or why there are none.",
    ),
    "version_failed": LogEvent(
        "error",
        ("session", "problem"),
        "The version that was taken after this session could not be published and is left out; learning goes on.",
    ),
    "trainer_failed": LogEvent(
        "error",
        ("problem",),
        "The trainer ends with exit code 1; it goes on at its checkpoint when it is started again.",
    ),
    "served_unavailable": LogEvent(
        "warning",
        ("address", "problem"),
        "The desk's questions do not reach the process that serves answers: each is a HOLD until they do.",
    ),
    "question_refused": LogEvent(
        "warning",
        ("problem",),
        "A question in Redis is none of this release, or its model cannot be asked: it is not answered.",
    ),
    "trainer_delayed": LogEvent(
        "warning", ("problem",), "The stream cannot be read: nothing is learned until it can; tried again."
    ),
    "trainer_resumed": LogEvent("info", ("row",), "The stream is read again; `row` is the newest one learned from."),
    "experience_refused": LogEvent(
        "error",
        ("entry", "reason", "refused"),
        "An entry of the stream is no experience that this desk can have had: it is kept aside, acknowledged and never "
        "learned from; `refused` counts them since the trainer began.",
    ),
    "refused_not_kept": LogEvent("warning", ("problem",), "An entry that was refused could not be kept aside."),
    "experience_taken": LogEvent(
        "warning",
        ("entries", "by", "taken"),
        "Another consumer of the group read entries while the trainer runs: they are taken back in their order, once "
        "it is silent; `taken` counts them since the trainer began.",
    ),
    "experience_gap": LogEvent(
        "warning", ("after", "row"), "Entries between these two rows did not come: no return reaches across them."
    ),
    "learned": LogEvent(
        "info",
        ("row", "transitions", "updates", "rewards", "figures"),
        "At a checkpoint: sums of each term of the reward since the last one, and the learner's own figures.",
    ),
    "learning_frozen": LogEvent(
        "warning", ("row",), "By hand: experience is kept from here on, and no update is made."
    ),
    "learning_resumed": LogEvent("info", ("row",), "By hand: updates are made again."),
}
