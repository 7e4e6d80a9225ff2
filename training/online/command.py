"""`rltrader-trainer`: learns from a desk's experience and adds versions with their cards to the model store.

A process of its own. It knows no broker and moves no pointer. Exit code 2: wrong use; 1: start it again.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from daemon.experience.link import Link, RedisError, add_arguments, link_of, password
from daemon.host.credential import CredentialProblem
from daemon.host.ed25519 import signature_of
from daemon.host.passing import may_pass
from daemon.host.service import Service
from daemon.host.time.calendar import CalendarError
from daemon.host.version import add_version
from daemon.models.signature import keys_of
from daemon.operator.log import Log
from daemon.tapes.files import TapeError
from daemon.tapes.spans import is_span
from rltrader import called
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import read_file, shipped
from training.desks.online.network import COLD_PRESETS
from training.online.beginning import OtherFolder
from training.online.lease import LeaseTaken
from training.online.reward import RewardAgent
from training.online.trainer import CheckpointUnreadable
from training.online.work import ColdStartInterrupted, LearningProcess, NoFirstVersion, Pulse
from training.runs.folder import RunFolderError
from training.runs.ledger import LedgerError
from training.study.folds import HistoryError

KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
WRONG_USE = (
    CredentialProblem,
    CheckpointUnreadable,
    LeaseTaken,
    OtherFolder,
    RunFolderError,
    LedgerError,
    NoFirstVersion,
    TapeError,
    CalendarError,
    HistoryError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn until a signal ends the process."""
    options = parser().parse_args(arguments)
    try:
        link = link_of(options.redis, options.redis_user, options.redis_ca_file)
        client = link.client(password())
        config = _checked(options)
        rewards = RewardAgent(_weights(options.reward))
    except (CredentialProblem, OSError, ValueError) as error:
        return _refused(error, 1 if may_pass(error, options.own_dir) else 2)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = Log(options.log_level, options.log_format)
    return _run(options, link, client, config, rewards, log, stop)


def _run(
    options: argparse.Namespace,
    link: Link,
    client: Any,
    config: ModelConfig,
    rewards: RewardAgent,
    log: Log,
    stop: threading.Event,
) -> int:
    """Work, and turn what ends it into an exit code."""
    pulse = Pulse(Service())
    try:
        log(
            "trainer_started",
            desk=options.desk,
            redis=str(link),
            store=str(options.models_dir),
            own_dir=str(options.own_dir),
        )
        LearningProcess(options, client, config, rewards, log, pulse, stop).run()
    except ColdStartInterrupted:
        return 0
    except WRONG_USE as error:
        return _refused(error)
    except (ArithmeticError, OSError, RuntimeError, RedisError) as error:
        log("trainer_failed", problem=f"{type(error).__name__}: {error}")
        return 1
    finally:
        pulse.close()
        client.close()
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line of rltrader-trainer."""
    line = argparse.ArgumentParser(
        prog=called("rltrader-trainer"),
        description="Make a first model from recorded bars, then learn from a desk's experience, and add versions with "
        "their cards to the model store. docs/ONLINE.md explains it.",
        epilog="Password of Redis: the credential REDIS_PASSWORD. Exit codes: 0 stopped, 1 start it again, 2 mend what "
        "is named first.",
    )
    add_version(line)
    line.add_argument("--desk", required=True, metavar="NAME", help="the desk's name (desk.name of the daemon)")
    add_arguments(line, "rltrader-trainer")
    store = "model store: paths.models_dir of the daemon (%(default)s)"
    line.add_argument("--models-dir", type=Path, default=Path("onnx_models"), metavar="DIR", help=store)
    former = argparse.SUPPRESS  # its former name still works
    line.add_argument("--store", dest="models_dir", type=Path, default=former, help=former)
    key = "private key that signs each version (rltraderctl models keygen makes one); needed where the daemon has keys"
    line.add_argument("--signing-key", type=Path, metavar="FILE", help=key)
    keys = "policy.public_key of the daemon: answers are served from versions that one of these keys signed"
    line.add_argument("--public-key", default="", metavar="KEY[,KEY]", help=keys)
    line.add_argument(
        "--own-dir", type=Path, required=True, metavar="DIR", help="for checkpoint and replays; of one desk alone"
    )
    line.add_argument(
        "--bars",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="recorded bars for the cold start, and for what a card expects of a session: one file with all symbols, "
        "or one for each in their order",
    )
    _add_model(line)
    _add_versions(line)
    level, form = "the least that is logged (%(default)s)", "auto: pretty on a terminal, else json (%(default)s)"
    line.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help=level)
    line.add_argument("--log-format", choices=("auto", "json", "pretty"), default="auto", help=form)
    return line


def _add_model(line: argparse.ArgumentParser) -> None:
    """Add what the folder is made with, and how it learns."""
    line.add_argument(
        "--model-config", type=Path, metavar="FILE", help="desk.model_config of the daemon (default: the shipped one)"
    )
    line.add_argument(
        "--symbols", nargs="+", metavar="SYMBOL", help="desk.symbols of the daemon (default: those of the file)"
    )
    line.add_argument("--preset", choices=COLD_PRESETS, default="cold", help="of the cold start (%(default)s)")
    line.add_argument("--feed", default="sip", metavar="NAME", help="whose bars --bars are (%(default)s)")
    line.add_argument("--seed", type=int, default=1, metavar="N", help="of the cold start and all that is drawn (1)")
    line.add_argument("--threads", type=_positive, default=1, metavar="N", help="of the processor, 1 or more (1)")
    line.add_argument(
        "--reward",
        type=_term,
        action="append",
        default=[],
        metavar="TERM=WEIGHT",
        help="a term of the reward, may be given again (gain=1)",
    )
    line.add_argument(
        "--replay-rows",
        type=_positive,
        default=100_000,
        metavar="N",
        help="decisions that are kept to learn from, each symbol's counted (%(default)s)",
    )
    line.add_argument(
        "--checkpoint-every",
        type=_positive,
        default=500,
        metavar="N",
        help="decisions between two of them (%(default)s)",
    )


def _add_versions(line: argparse.ArgumentParser) -> None:
    """Add when a version is taken and how it is judged."""
    line.add_argument(
        "--publish-every", type=_positive, default=5, metavar="N", help="sessions between two versions (%(default)s)"
    )
    line.add_argument(
        "--card-sessions",
        type=_positive,
        default=20,
        metavar="N",
        help="sessions after a version was taken on which its card is made; then it is published (%(default)s)",
    )
    line.add_argument(
        "--card-horizon",
        type=_positive,
        default=2,
        metavar="N",
        help="decisions of an episode of the card at most: longer ones see later effects and need many more sessions "
        "(%(default)s)",
    )


def _checked(options: argparse.Namespace) -> ModelConfig:
    """Check names and files; returns the model configuration with the desk's symbols. Raises OSError, ValueError."""
    if NAME.fullmatch(options.desk) is None:
        raise ValueError(f"--desk is {options.desk!r}: expected the desk's name (desk.name of its configuration)")
    for path in options.bars:
        if not is_span(path) and not path.is_file():
            raise ValueError(f"--bars {path}: no such file: name recorded bars (train-and-export download makes them)")
    if not options.models_dir.is_dir():
        raise ValueError(f"--models-dir {options.models_dir}: no such folder: name the model store (paths.models_dir)")
    config = read_file(options.model_config) if options.model_config else shipped()
    _check_keys(options)
    return msgspec.structs.replace(config, symbols=tuple(options.symbols)) if options.symbols else config


def _check_keys(options: argparse.Namespace) -> None:
    """Raise ValueError for keys by which the daemon would refuse every version of this process."""
    keys = keys_of(options.public_key)
    for key in keys:
        if KEY.fullmatch(key) is None:
            raise ValueError(f"--public-key {key}: expected policy.public_key of the daemon: 44 characters of base64")
    if options.signing_key is None:
        if keys:
            raise ValueError("--public-key without --signing-key: the daemon would refuse what is published here")
        return
    public = signature_of(b"", options.signing_key)[1]
    if keys and public not in keys:
        raise ValueError(
            f"--signing-key {options.signing_key} is the key of {public}, which is not in --public-key: add it there "
            "and to policy.public_key of the daemon"
        )


def _weights(pairs: Sequence[tuple[str, float]]) -> dict[str, float] | None:
    """Return the weights of the reward, None for the default. Raises ValueError for a term that is given twice."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--reward {twice[0]} is given twice: name each term once")
    return dict(pairs) or None


def _refused(error: Exception, code: int = 2) -> int:
    sys.stderr.write(f"rltrader-trainer: {error}\n")
    return code


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of 1 or more")
    return number


def _term(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected TERM=WEIGHT such as turnover=0.0001") from None
