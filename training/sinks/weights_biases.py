"""The sink `wandb`: a run of Weights & Biases for each trial, in the group of the whole run.

Project, account, key and mode are those of the environment: `WANDB_PROJECT` (`rltrader`), `WANDB_ENTITY`,
`WANDB_API_KEY`, `WANDB_MODE`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from training.sinks.sink import Sink, Started

ID_LENGTH = 16


class WandbSink(Sink):
    """A trial that goes on continues its run."""

    def __init__(self, started: Started) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rltrader"),
            group=started.run,
            name=started.trial,
            id=started.key[:ID_LENGTH],
            resume="allow",
            reinit="create_new",
            config=dict(started.settings),
            dir=str(started.folder),
            settings=wandb.Settings(console="off", silent=True),
        )

    def on_update(self, update: int, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._run.log(dict(figures), step=update)

    def on_look(self, update: int, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._run.log(dict(figures), step=update)

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish()
