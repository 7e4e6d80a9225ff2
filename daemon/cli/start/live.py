"""Run a live desk as a process: event loop, log, exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace

from daemon.app.live.desk import run_live
from daemon.app.live.model_choice import wait_for_first
from daemon.app.live.prepare import prepare_live
from daemon.cli.start.exits import TRADED, TROUBLE, exit_code, refuse, what_next
from daemon.config.load import Credentials, DeskSettings
from daemon.host.service import Service
from daemon.operator.log import Log, LossyStream


def run(
    settings: DeskSettings, keys: Credentials, *, dry_run: bool, on_refusal: Callable[[Log, str], int] = refuse
) -> int:
    """Run until the desk stops; returns the exit code, or that of `on_refusal` for a refused start.

    On a terminal it prints suggested next commands at the end.
    """
    folder, settings = settings.paths.state_dir, _with_whole_paths(settings)
    stream = LossyStream(sys.stderr)  # a stalled reader does not stall trading
    log = Log(settings.log.level, settings.log.format, stream)

    def work() -> int:
        service = Service()
        wait_for_first(settings, log, service)
        service.close()
        live = prepare_live(settings, keys, dry_run=dry_run)
        with asyncio.Runner(loop_factory=live.clock.new_loop) as runner:
            stopped_by = runner.run(run_live(live, log))
        return TROUBLE if stopped_by == "disk_full" else 0

    try:
        code = exit_code(log, work, on_refusal)
    finally:
        stream.finish()
    if not code and sys.stdout is not None and sys.stdout.isatty():
        sys.stdout.write(what_next(TRADED, folder))
    return code


def _with_whole_paths(settings: DeskSettings) -> DeskSettings:
    """Return settings whose folders stay the same where own code changes the working directory."""
    paths = settings.paths
    whole = replace(paths, state_dir=paths.state_dir.absolute(), models_dir=paths.models_dir.absolute())
    return settings.model_copy(update={"paths": whole})
