"""Put versions with their cards into the model store, and nothing else: no pointer, no other version is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.host.ed25519 import KeyProblem
from daemon.host.time.calendar import CalendarError
from daemon.tapes.files import TapeError
from strategies.kit.card import CARD_FILE, encode
from strategies.kit.manifest import MANIFEST_FILE, Reference, Training
from strategies.online_dqn import OnlineDqn
from strategies.online_dqn.model_config import PORTFOLIO
from training.desks.online.export import export_online
from training.evidence.off_policy import OffPolicy, card_of
from training.evidence.statistics import Series
from training.export.reference import Watched, each_column, reference_of
from training.export.shelf import ExportError
from training.online.beginning import Apart, OtherFolder
from training.online.candidates import Origin, weights_digest
from training.rl.dqn.networks import QNetwork
from training.runs.ledger import Ledger, LedgerLine, ledger_path, settings_digest, utc_now
from training.study.folds import HistoryError

CODE = ("online", "rl/dqn", "desks/online")
"""Folders of this package with the trainer's code."""

NOT_NOW = (KeyProblem, OSError, OtherFolder, TapeError, CalendarError, HistoryError)
"""What a person mends: the key, the store's disk, bars that were replaced or cannot be read since the start."""


class Versions:
    """Writes the versions of one strategy. A call for weights that were published already changes nothing.

    `newest` is the version written last, "" if this process wrote none; `problem` is why none was written since.
    """

    def __init__(
        self,
        store: Path,
        strategy: OnlineDqn,
        training: Training,
        hyperparameters: Mapping[str, Any],
        apart: Apart,
        log: Callable[..., None],
        sign: Callable[[Path, bytes], object] | None = None,
    ) -> None:
        """Write into `<store>/<strategy>/`; `training` is what the cold start was made from. `sign`: see `Release`."""
        self._store, self._strategy, self._training = store, strategy, training
        self._hyperparameters, self._apart, self._log = hyperparameters, apart, log
        self._code, self._sign = code_digest(), sign
        self.newest = self.problem = ""

    def __call__(self, network: QNetwork, result: OffPolicy, origin: Origin, parent: str, watched: Watched) -> bool:
        """Publish; a network that cannot be exported is logged and left out.

        False: not now, because of the key, the store's disk or the recorded bars: learning and answers go on meanwhile.
        """
        try:
            self.publish(network, result, origin, parent, watched)
        except (ExportError, ValueError, *NOT_NOW) as error:
            self._log("version_failed", session=origin.session, problem=str(error))
            self.problem = f"the version of session {origin.session} cannot be published: {error}"
            return not isinstance(error, NOT_NOW)
        return True

    def publish(
        self, network: QNetwork, result: OffPolicy, origin: Origin, parent: str, watched: Watched | None = None
    ) -> None:
        """Write a version with its card.

        `watched` is the reference for live features and actions; None: the recorded bars.

        Raises:
            ExportError: the network's answers cannot be exported.
            ValueError: a card cannot be made, for want of sessions kept apart for example.
            OSError: the store cannot be written.
            KeyProblem: the signing key cannot be used any more.
            OtherFolder, TapeError, CalendarError, HistoryError: the recorded bars are others now, or cannot be read.
            LedgerError: the cold start cannot be counted.
        """
        version = f"{origin.session}-{weights_digest(network)[:8]}"
        if (self._store / self._strategy.spec.name / version / MANIFEST_FILE).exists():
            self.newest, self.problem = version, ""  # this trainer was killed between the version and its checkpoint
            return
        returns = self._apart.returns(network)
        if not origin.stream:
            self._record(returns)
        card = card_of(
            result,
            returns,
            version=version,
            parent=parent,
            trainer=self._code,
            stream=origin.stream,
            rows=origin.rows,
        )
        rows = f"rows {card.first_row} to {card.last_row} of {card.stream}"
        export_online(
            network,
            self._strategy,
            out=self._store,
            probes=self._apart.probes(),
            training=self._training,
            hyperparameters=self._hyperparameters,
            metrics={"session_mean": card.session_mean, "session_deviation": card.session_deviation},
            files={CARD_FILE: encode(card)},
            version=version,
            note=rows if card.stream else "the cold start",
            reference=self._reference(self._apart.watched(network) if watched is None else watched),
            sign=self._sign,
        )
        self.newest, self.problem = version, ""
        self._log(
            "version_published",
            version=version,
            parent=parent,
            sessions=result.sessions,
            effective=result.effective,
            cannot_be_said=result.cannot_be_said,
            leads={estimate.name: estimate.lead.estimate for estimate in result.estimates},
        )

    def _record(self, returns: Series) -> None:
        """Record in the ledger that the cold start saw the held-out sessions; later versions use later sessions."""
        first, last = self._training.splits["test"]
        settings = {**self._hyperparameters, "cold_start": "", "bars": self._training.file_sha256}
        digest, deviation = settings_digest(settings), float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
        opening = LedgerLine(
            kind="opening",
            utc=utc_now(),
            strategy=self._strategy.spec.name,
            data_sha256=self._training.file_sha256,
            first=first,
            last=last,
            study=f"rltrader-trainer-{digest[:8]}",
            note=f"the cold start's sessions kept apart, code {self._code}",
        )
        trial = msgspec.structs.replace(
            opening,
            kind="trial",
            sharpe=float(returns.mean()) / deviation if deviation > 0.0 else 0.0,
            settings_sha256=digest,
            note="the cold start",
        )
        Ledger(ledger_path(self._store, self._strategy.spec.name)).record(opening, trial)

    def _reference(self, watched: Watched) -> Reference:
        spec = self._strategy.spec
        inputs = each_column(spec, range(len(spec.features)), of_the_desk=PORTFOLIO)
        return reference_of(inputs, watched, spec)


def code_digest() -> str:
    """Return 12 hex digits over the trainer's code."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
