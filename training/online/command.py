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
from typing import Any

import msgspec

from daemon.experience.link import Link, RedisError, link_of, password
from daemon.host.credential import CredentialProblem
from daemon.host.ed25519 import signature_of
from daemon.host.passing import may_pass
from daemon.host.service import Service
from daemon.host.time.calendar import CalendarError
from daemon.models.signature import keys_of
from daemon.operator.log import Log
from daemon.tapes.files import TapeError
from daemon.tapes.spans import is_span
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


def main(options: argparse.Namespace) -> int:
    """Learn until a signal ends the process."""
    try:
        link = link_of(options.redis, options.redis_user, options.redis_ca_file)
        client = link.client(password())
        config = _check(options)
        rewards = RewardAgent(_weights(options.reward))
    except (CredentialProblem, OSError, ValueError) as error:
        return _refuse(error, 1 if may_pass(error, options.own_dir) else 2)
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
    process = LearningProcess(options, client, config, rewards, log, pulse, stop)
    try:
        log(
            "trainer_started",
            desk=options.desk,
            redis=str(link),
            store=str(options.models_dir),
            own_dir=str(options.own_dir),
        )
        process.run()
    except ColdStartInterrupted:
        process.note_end("")
        return 0
    except WRONG_USE as error:
        if not isinstance(error, LeaseTaken):  # the other one shows its own work
            process.note_end(str(error))
        fault = error.__cause__ if isinstance(error, (LedgerError, TapeError)) else None
        return _refuse(error, 1 if isinstance(fault, OSError) and may_pass(fault, options.models_dir) else 2)
    except (ArithmeticError, OSError, RuntimeError, RedisError) as error:
        log("trainer_failed", problem=f"{type(error).__name__}: {error}")
        process.note_end(f"{type(error).__name__}: {error}")
        return 1
    finally:
        pulse.close()
        client.close()
    process.note_end("")
    return 0


def _check(options: argparse.Namespace) -> ModelConfig:
    """Check names and files; returns the model configuration with the desk's symbols. Raises OSError, ValueError."""
    if NAME.fullmatch(options.desk) is None:
        raise ValueError(f"--desk is {options.desk!r}: expected the desk's name (desk.name of its configuration)")
    if options.preset not in COLD_PRESETS:
        raise ValueError(f"--preset is {options.preset!r}: expected one of {', '.join(COLD_PRESETS)}")
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


def _refuse(error: Exception, code: int = 2) -> int:
    sys.stderr.write(f"rltrader-trainer: {error}\n")
    return code
