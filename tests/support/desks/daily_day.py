"""A daily desk's day: where it begins, what was bought, how it is stopped."""

from __future__ import annotations

from tests.support.desks.stage import Stage

BEGIN = "08:20"  # seven real seconds before the open: a busy machine starts a daemon in less


def stop(played: Stage) -> None:
    """End the newest daemon cleanly."""
    daemon = played.daemons[-1]
    daemon.terminate()
    assert daemon.wait(600) == 0, played.log()[-3000:]  # virtual seconds; a busy machine ends a process late


def bought(played: Stage) -> None:
    """From `BEGIN` until the first basket is bought; the daemon ends."""
    played.start()
    played.until_true(lambda: bool(played.held().get("SPY")), "SPY is bought")
    played.until_true(lambda: played.journaled("OrderFilled") != [], "the fill is journaled")
    stop(played)
