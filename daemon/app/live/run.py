"""Run a live desk from its checks to its stop."""

from __future__ import annotations

from daemon.app.announce import announce
from daemon.app.desk import prepare_interpreter
from daemon.app.live.desk import LiveDesk
from daemon.app.live.feed_choice import choose_feed, keep_feed
from daemon.app.live.prepare import Live
from daemon.app.live.start import open_live
from daemon.app.telemetry import broker_keys
from daemon.core.session import new_york_text
from daemon.operator.log import Log


async def run_live(live: Live, log: Log) -> str:
    """Run a live desk until it is stopped; returns what stopped it.

    Raises what `choose_feed` and `open_live` raise, with nothing written.
    """
    keys = broker_keys(live.settings)
    chosen = await choose_feed(live.settings, live.credentials, live.clock)
    live.settings = chosen.settings
    account, opened = open_live(live, log)
    recovered = opened.recovered
    try:
        if live.clock.is_simulated:
            log.market_time = lambda: new_york_text(live.clock.now_ns())
        announce(opened, log)
        if chosen.how:
            keep_feed(opened.state_dir.path, chosen)
            log("feed_chosen", name=live.settings.feed.name, options=live.settings.feed.options, how=chosen.how)
        if live.refused and live.model.digest:
            reason = f"it answered last and goes on, because {live.refused}"
            log("model_warning", version=live.model.version, reason=reason)
        prepare_interpreter()
        desk = LiveDesk(live, opened, log, keys, account)
        desk.heads.publish(recovered.last_id, recovered.head.hex())
        for snapshot in recovered.passed_over:
            desk.notify("snapshot_passed_over", snapshot=snapshot)
        await desk.check_clock()  # before any event is stamped with it
        await desk.run()
        state, engine = desk.engine.machine.state, desk.engine
        log("run_ended", events=state.seq, state_digest=engine.state_digest(), stopped_by=engine.stopped_by)
        return engine.stopped_by
    finally:
        opened.close()
        account.close()
