"""The gateway of a world: the real `serve` in all its lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.config.load import EXIT_CODE, ConfigError
from daemon.gateway.command import serve
from daemon.gateway.config import load_gateway
from daemon.gateway.gateway import Gateway
from daemon.host.own_files import StateDirError
from daemon.host.time.clock import Clock
from daemon.journal.rows import JournalError
from daemon.operator.log import Log
from tests.years.lives import Lives
from tests.years.loop import OWNER, Process, YearsLoop
from tests.years.wires import Network

NAME = "gateway"


class GatewayLives(Lives):
    """`rltrader-gateway`: started as systemd would, killed, stopped, started again."""

    def __init__(
        self,
        loop: YearsLoop,
        network: Network,
        folder: Path,
        config: Path,
        keys: tuple[str, str],
        note: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        super().__init__(NAME, loop, network, folder / NAME, config, keys, note)
        self.gateway: Gateway | None = None
        before = Gateway.__init__

        def new_init(gateway: Gateway, *args: Any, **kwargs: Any) -> None:
            before(gateway, *args, **kwargs)
            if OWNER.get() is self.process:
                self.gateway = gateway

        Gateway.__init__ = new_init  # type: ignore[method-assign,assignment]

    def begins(self) -> None:
        """Forget what is of the life before."""
        self.gateway = None

    def grave(self) -> object:
        """What of a dead life must not be collected."""
        return self.gateway

    async def main(self, process: Process, log: Log) -> int:
        """What `rltrader-gateway` does once its command line is read."""
        del process
        self._end_by_signal()
        try:
            settings = load_gateway(self.config)
            await serve(settings, self._keys, Clock.virtual(self.loop.participant), log, self.state_dir)
        except asyncio.CancelledError:
            return 0
        except (ConfigError, StateDirError, JournalError) as error:
            log("gateway_ended", problem=str(error))
            return EXIT_CODE
        return 0
