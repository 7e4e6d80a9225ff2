"""Probes through intake, step and journal of a live desk: each one returns by itself, whoever else probes.

The desk is wired as it runs; no address of its answers, because a probe needs none.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from daemon.app.desk import open_desk
from daemon.app.live.desk import LiveDesk
from daemon.app.live.prepare import prepare_live
from daemon.app.operator_side import BrokerKeys
from daemon.config.load import Credentials, load
from daemon.operator.log import Log
from tests.support.paths import FIXTURE_MODELS

MODELS = FIXTURE_MODELS
NOWHERE = {name: f"http://127.0.0.1:9/{name}" for name in ("alpaca.trading_url", "alpaca.data_url")} | {
    f"alpaca.{name}": "ws://127.0.0.1:9" for name in ("stream_url", "trade_stream_url", "option_stream_url")
}
FEED = {"feed.name": "sip", "feed.options": "opra"}  # there is nothing to ask

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")


@contextlib.asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[LiveDesk]:
    """A live desk whose engine runs and whose feed and broker do not."""
    settings = load(None, {"paths.state_dir": folder, "paths.models_dir": MODELS, **FEED, **NOWHERE})
    keys = Credentials(api_key_id=SecretStr("a-key-id"), api_secret_key=SecretStr("a-secret-key"))
    live = prepare_live(settings, keys, dry_run=False)
    log = Log("error", "json", io.StringIO())
    opened = open_desk(live, live.meta(), "epoch00001", log)
    live_desk = LiveDesk(live, opened, log, BrokerKeys(None, {}))
    running = asyncio.create_task(live_desk.engine.run([]))
    try:
        yield live_desk
        live_desk.intake.end()
        await running
    finally:
        running.cancel()
        opened.close()


async def test_two_probes_at_once_both_return(tmp_path: Path) -> None:
    async with desk(tmp_path) as it, asyncio.timeout(180):
        await asyncio.gather(it.ticks.probe(), it.ticks.probe())


async def test_a_probe_that_was_given_up_disturbs_no_later_one(tmp_path: Path) -> None:
    async with desk(tmp_path) as it, asyncio.timeout(180):
        late = asyncio.create_task(it.ticks.probe())
        await asyncio.sleep(0)
        late.cancel()
        await it.ticks.probe()
        assert late.cancelled()
