"""Files of `rltrader init`: a short configuration, keys, models and a first dry run.

Everything is made in a hidden folder first and moved into place at the end, the configuration last: if it exists, the
others are complete. Nothing that exists is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any, NamedTuple

from daemon.cli.init.account import FOLDER, LIVE, NONE
from daemon.config.load import KEYS, Credentials, defaults
from daemon.host.whole_files import write_whole
from daemon.library.library import RUNS
from daemon.models.__main__ import version_words
from daemon.models.shipped import PACKAGED, USUAL
from daemon.tapes.span_options import usual_span
from daemon.tapes.spans import Span
from rltrader import HOME, module_command
from strategies.kit.contract import Spec
from strategies.kit.units import DAY_S, MINUTE_S

CONFIG, STATE = Path("config.toml"), Path("state")
LIVE_ADDRESSES = {"trading_url": "https://api.alpaca.markets", "trade_stream_url": "wss://api.alpaca.markets/stream"}
MINUTES_DAYS, DAYS_MORE = 70, 365  # of the calendar: some 48 sessions of minutes; a year of decisions once a day
STAGE = ".rltrader-init-"
HEAD = """# A desk of {} {}, made by `rltrader init`. What differs from the defaults stands here, and no key;
# `rltraderd --check` shows all that holds.
"""


class FolderProblem(Exception):
    """The folder cannot become a desk's. The text names it and the cure."""


class Line(NamedTuple):
    """A line of the configuration: its key, its value, and the reason for it."""

    key: str
    value: object
    why: str


@dataclass(frozen=True, slots=True)
class Choices:
    """Answers that define a desk."""

    strategy: str  # a name, or the absolute path of a file
    spec: Spec
    account: str  # paper, live or none
    number: str = ""
    foreign: str = "halt"


def config_text(choices: Choices) -> str:
    """Return the configuration: only the keys that differ from their defaults, each with its reason."""
    account, spec, live = choices.account, choices.spec, choices.account == LIVE
    of_one = ", and so has each start of the simulator" if account == NONE else ""
    lines = [
        Line("desk.name", "live-1" if live else "paper-1", "in logs and messages"),
        Line("desk.strategy", choices.strategy, f"{about(spec)}; its journal is bound to it"),
        Line("desk.account", LIVE if live else "paper", "real money"),
        Line("desk.account_number", choices.number, "keys of any other account are refused"),
        Line("paths.state_dir", str(state_of(account)), f"its journal; a dry run has a folder of its own{of_one}"),
        Line("broker.foreign_orders", choices.foreign, "what others hold or order in the account"),
        *(Line(f"alpaca.{key}", address, "of live accounts") for key, address in LIVE_ADDRESSES.items() if live),
    ]
    usual = defaults()
    where = "in the simulator" if account == NONE else f"on a {account} account"
    text = HEAD.format(spec.name, where)
    for table in usual:
        chosen = [line for line in lines if line.key.startswith(f"{table}.")]
        differ = [line for line in chosen if line.value != _plain(usual[table][line.key.partition(".")[2]])]
        if differ:
            rows = [f"{line.key.partition('.')[2]} = {json.dumps(line.value)}  # {line.why}\n" for line in differ]
            text += f"\n[{table}]\n{''.join(rows)}"
    return text


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def state_of(account: str) -> Path:
    """Return the desk's state directory, relative to its folder."""
    return STATE / ("sim" if account == NONE else account)


def about(spec: Spec) -> str:
    """Return in a few words the holdings of a strategy, and the time of its decisions."""
    if spec.chained:
        description = f"options on {spec.symbols[0]}"
    elif len(spec.symbols) > 4:
        description = f"{len(spec.symbols)} stocks"
    else:
        description = ", ".join(spec.symbols)
    minutes = spec.bar_interval_s // MINUTE_S
    bars = "once a day" if spec.bar_interval_s == DAY_S else f"each {minutes} minutes" if minutes > 1 else "each minute"
    return f"{description}, {bars}{'' if spec.overnight else ', flat by the close'}"


# --- bars -------------------------------------------------------------------------------------------------------------


def wanted_bars(folder: Path, spec: Spec, today: date) -> Span:
    """Return the bars that show a strategy at work: enough to warm it up, and some sessions more.

    They are a span of the desk's own folder of bars. Dates without a bar are allowed: a share may be younger.
    """
    days = MINUTES_DAYS if spec.bar_interval_s != DAY_S else spec.history_bars * 365 // 250 + DAYS_MORE
    end = today - timedelta(days=1)
    begin = end - timedelta(days=days)
    return usual_span(spec, folder / "bars", begin.isoformat(), end.isoformat(), holes=True)


def fetch_bars(span: Span, keys: Credentials, data_url: str) -> Path | None:
    """Fetch the bars into their folder, with progress on standard error; None, with a message, after a failure.

    Finished parts stay there, and the same call continues with them. The keys are only in the child's environment.
    """
    command = module_command(
        "training", "data", "add", *span.symbols, "--bars", span.bars, "--from", span.first, "--to", span.last,
        "--data-dir", span.folder,
    )  # fmt: skip
    secrets = dict(zip(KEYS, (keys.key, keys.secret), strict=True))
    process = subprocess.run(command, env=os.environ | secrets | {"RLTRADER_ALPACA__DATA_URL": data_url}, check=False)
    return span.path if process.returncode == 0 else None


# --- the folder -------------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raise FolderProblem if the folder already has a configuration, or cannot be written to."""
    config = folder / CONFIG
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise FolderProblem(f"{existing} is no folder: name another one")
    if config.exists() or config.is_symlink():
        raise FolderProblem(
            f"{config} is there already, and nothing is overwritten: name another folder, such as `init ~/desk`, or "
            "move that file away"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise FolderProblem(f"{existing} is not writable: name another folder, or mend its owner and mode")


@contextmanager
def stage(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder within the desk's, on the same disk; it is always removed at the end.

    Raises FolderProblem if the disk is full.
    """
    new_folders = [place for place in (folder.absolute(), *folder.absolute().parents) if not place.exists()]
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=STAGE, dir=folder) as name:
            yield Path(name)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        text = f"{folder.absolute()}: {error.strerror}: free some room there, or name another folder"
        raise FolderProblem(text) from error
    finally:
        for place in new_folders:  # the innermost first; a filled one stays
            try:
                place.rmdir()
            except OSError:
                break


def put_keys(stage_folder: Path, keys: Credentials) -> None:
    """Write both keys into the folder `keys`, readable only by this user and ignored by git."""
    place = stage_folder / FOLDER
    place.mkdir(mode=0o700)
    for name, text in zip(KEYS, (keys.key, keys.secret), strict=True):
        write_whole(place / name, f"{text}\n".encode(), 0o600)
    write_whole(place / ".gitignore", b"*\n", 0o600)


def shipped_store() -> Path | None:
    """Return the store of shipped models: of the wheel, or of the checkout; None without one."""
    return next((store for store in (PACKAGED, HOME / USUAL) if store.is_dir()), None)


def put_models(stage_folder: Path, folder: Path, strategy: str) -> None:
    """Copy the strategy's shipped models, unless the folder has some; the user's own strategy has none."""
    store = shipped_store()
    if store is not None and (store / strategy).is_dir() and not (folder / USUAL / strategy).exists():
        shutil.copytree(store / strategy, stage_folder / USUAL / strategy)


def put_first_run(stage_folder: Path, folder: Path, spec: Spec, state: Path, bars: Path | None) -> dict[str, Any]:
    """Run the first dry run with the version used by `make demo`, and return its summary.

    Its journal is in `state`, within the folder. Without `bars` it uses the bundled tape. Raises FolderProblem with the
    end of its output if it fails.
    """
    models = next(store for store in (stage_folder / USUAL, folder / USUAL) if (store / spec.name).is_dir())
    try:
        version = version_words(models, spec.name).partition(" ")[0]
    except (OSError, ValueError) as error:
        raise FolderProblem(f"{models / spec.name}: its models cannot be read: {error}") from error
    command = [
        *module_command("daemon", "--dry-run", "--config", stage_folder / CONFIG, "--models-dir", models),
        *("--state-dir", str(stage_folder / state)), *(("--bars", str(bars)) if bars is not None else ()),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    environment.pop("CREDENTIALS_DIRECTORY", None)  # with keys and without a tape it would use the live feed
    environment["RLTRADER_POLICY__VERSION"] = version
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise FolderProblem(f"the first dry run failed: {_last_problem(process.stderr)}")
    summary: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return summary


def _last_problem(log: str) -> str:
    for line in reversed(log.splitlines()):
        try:
            fields = json.loads(line)
        except ValueError:
            return line
        if problem := fields.get("problem"):
            return str(problem)
    return "it said nothing"


def put_into_place(stage_folder: Path, folder: Path) -> None:
    """Move the staged files into the folder, the configuration last. Raises FolderProblem if a target exists by now.

    If one cannot be moved, those moved before are removed again.
    """
    new_places: list[Path] = []
    try:
        for part in _parts(stage_folder):
            target = folder / part
            target.parent.mkdir(mode=0o750, exist_ok=True)
            _move(stage_folder / part, target)
            new_places.append(target)
    except BaseException:
        for target in new_places:
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        raise


def _move(part: Path, target: Path) -> None:
    try:
        if part.is_dir():
            part.rename(target)  # the system refuses an existing folder that is not empty
        else:
            os.link(part, target)  # and an existing file
    except OSError as error:
        text = f"{target} cannot be written ({error.strerror}): nothing is overwritten: move it away"
        raise FolderProblem(text) from error


def first_state(folder: Path) -> Path:
    """Return an unused state directory for the first dry run, where `rltrader runs` looks within the desk's folder."""
    names = ("first", *(f"first-{number}" for number in range(2, 1000)))
    return next(RUNS / name for name in names if not (folder / RUNS / name).exists())


def _parts(stage_folder: Path) -> Iterator[Path]:
    for outer in (USUAL, RUNS):
        if (stage_folder / outer).is_dir():
            yield from (outer / inner.name for inner in sorted((stage_folder / outer).iterdir()))
    yield from (part for part in (Path(FOLDER), CONFIG) if (stage_folder / part).exists())


def overruling_variables(environment: Mapping[str, str]) -> Sequence[str]:
    """Return the variables of this shell that will override the configuration."""
    return sorted(name for name in environment if name.startswith("RLTRADER_") and "__" in name)
