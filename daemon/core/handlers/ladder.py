"""The ladder of a new version, as the journal records it: which step it stands on."""

from __future__ import annotations

from daemon.core import events as ev
from daemon.core.draft import Draft
from daemon.core.state import LadderState

JUDGED_MAX = 200  # versions that are not proposed again


def on_ladder_moved(draft: Draft, event: ev.LadderMoved) -> None:
    """Record the step. A version that leaves the ladder keeps its size until another one answers."""
    former = draft.ladder
    judged = former.judged if isinstance(former, LadderState) else ()
    left = event.to_step in ("refused", "rolled_back", "champion")
    if left:
        judged = (*(name for name in judged if name != event.version), event.version)[-JUDGED_MAX:]
    draft.ladder = LadderState(
        event.version,
        event.to_step,
        event.champion,
        event.share,
        event.sessions,
        dict(event.figures),
        judged,
        event.manifest,
        event.champion_manifest,
    )
    if event.to_step == event.from_step:
        return
    detail = f"{event.version}: {event.reason}: {event.detail}"
    if event.to_step == "refused":
        draft.alarm("ladder_refused", detail)
    elif event.to_step == "rolled_back":
        draft.alarm("ladder_rolled_back", detail)
