"""`rltraderd --dry-run --check`: describe the replay without running it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from daemon.app.replay_start import TapeReplay, prepare_replay
from daemon.app.small_accounts import tried_entries, tried_words
from daemon.cli.start.capital import capital_finding
from daemon.cli.start.checks import OK, WARN
from daemon.cli.start.exits import REFUSALS, refuse
from daemon.config.limits_shown import in_force, never_enters, odd_limits
from daemon.config.load import DeskSettings
from daemon.config.strategy import describe
from daemon.core.draft import names_of
from daemon.engine.state_dir import check_identity, locked_by, peek
from daemon.host.own_files import StateDirError
from daemon.models.store import claim_words, how_to_claim, proof_words, warnings
from daemon.operator.log import Log
from daemon.tapes.bars import last_closes
from daemon.tapes.quotes.tape import OptionQuotes
from daemon.tapes.span_options import QuoteChoice
from strategies.registry import configured


def check(settings: DeskSettings, tape: Path, chosen: QuoteChoice | None = None) -> int:
    """Check configuration, tape, model and state directory; print what would run."""
    try:
        replay = prepare_replay(settings, tape, chosen)
        _check_folder(settings.paths.state_dir)
        meta = peek(settings.paths.state_dir)
        if meta is not None:
            check_identity(settings.paths.state_dir, meta, replay.meta())
        closes = (
            {} if replay.strategy.spec.chained else last_closes(tape, replay.info.symbols, adjust=replay.info.adjusted)
        )
        holder = locked_by(settings.paths.state_dir)
        if holder:
            raise StateDirError(f"{settings.paths.state_dir}: in use by process {holder}; stop it or choose another")
    except REFUSALS as error:
        return refuse(Log(), str(error))
    manifest = replay.model.manifest
    spec, trading = replay.strategy.spec, settings.trading()
    unproven, symbols = proof_words(manifest), configured(spec)
    claim, lines = claim_words(manifest, trading, symbols), how_to_claim(manifest, trading, symbols)
    other = warnings(manifest, spec, trading)
    values: dict[str, str | tuple[str, ...]] = {
        "configuration": "ok",
        "desk": settings.desk.name,
        "mode": "replay (dry run)" + ("" if replay.quotes is None else " with recorded option quotes"),
        "strategy": describe(replay.strategy),
        "tape": f"{replay.tape.name}, {replay.info.rows} rows, {replay.info.first_date} to {replay.info.last_date}",
        **({"absent": _absent(replay)} if replay.absent else {}),
        **({"too short": short} if (short := _short(replay)) else {}),
        **({"synthetic": "yes: the bars are made up"} if replay.info.synthetic else {}),
        **({} if replay.quotes is None else {"option_quotes": _description(replay.quotes)}),
        "model": f"{replay.model.version} on {replay.policy.provider}, verified, "
        + ("promoted" if manifest.promoted else "not promoted: allowed in a dry run only")
        + (f"; {unproven}" if unproven else ""),
        **({"warning": other} if other else {}),
        **({"claim": claim} if claim else {}),
        **({"to claim it": lines} if lines else {}),
        "state_dir": f"{settings.paths.state_dir}: " + ("resumes" if meta else "new"),
        **({"capital": capital} if (capital := _capital(settings, replay, closes)) else {}),
        "limits": in_force(settings),
        **({"odd limits": odd} if (odd := odd_limits(settings)) else {}),
        **({"entries": never} if (never := never_enters(settings)) else {}),
    }
    width = max(map(len, values))
    for key, value in values.items():
        first, *more = value if isinstance(value, tuple) else (value,)
        sys.stdout.write("".join([f"{key:<{width}}  {first}\n", *(f"{'':<{width}}  {line}\n" for line in more)]))
    sys.stdout.write(json.dumps({"check": "ok"}) + "\n")
    return 0


def _absent(replay: TapeReplay) -> str:
    """Return the symbols that the tape lacks, as a text."""
    name, count = replay.strategy.spec.name, len(replay.strategy.spec.symbols)
    return (
        f"{WARN}: the tape has no bars of {names_of(replay.absent)}, of {count} symbols of {name}, which buys none of "
        "them, and decides nothing where it needs them all: pass a tape that has them"
    )


def _short(replay: TapeReplay) -> str:
    """Return a message if the tape is shorter than an observation's look-back, else ""."""
    spec, absent = replay.strategy.spec, replay.absent
    bars = replay.bars // max(len(spec.symbols) - len(absent), 1)
    if bars >= spec.history_bars:
        return ""
    return (
        f"{WARN}: the tape has {bars:,} bars of a symbol, and {spec.name} looks back on {spec.history_bars:,}: its "
        "first decision comes late, or not at all: pass a longer tape"
    )


def _capital(settings: DeskSettings, replay: TapeReplay, closes: Mapping[str, float]) -> str:
    """Return the shares that the account can hold at the tape's last closes, or the option entries it can pay.

    "" if the tape has no price, or is too short for an option market.
    """
    spec, trading = replay.strategy.spec, settings.trading()
    if spec.chained:
        entries = tried_entries(replay.source(), trading, spec.symbols[0])
        text, verdict = tried_words(entries, trading.paper.cash_usd), WARN if entries.unaffordable else OK
    elif closes:
        finding = capital_finding(settings, spec.symbols, closes)
        text, verdict = finding.text, finding.verdict
    else:
        return ""
    return text if verdict == OK else f"{verdict}: {text}"


def _description(quotes: OptionQuotes) -> str:
    made_up = f", SYNTHETIC: {quotes.file.synthetic}" if quotes.file.synthetic else ""
    return f"{quotes.file.path.name}, {quotes.file.rows} rows, contracts of {quotes.root}{made_up}"


def _check_folder(path: Path) -> None:
    """Raise StateDirError if the daemon can neither use nor create `path`. Writes nothing."""
    try:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise StateDirError(f"{path}: cannot be a state directory: {error.strerror}; choose another") from error
    if not existing.is_dir():
        raise StateDirError(f"{path}: cannot be a state directory: {existing} is no folder; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StateDirError(
            f"{path}: cannot be a state directory: {existing} is not writable; check its owner and mode"
        )
