"""The entry point of `rltrader-trainer` and its command line: both load no torch.

It checks that the extras are installed, then calls the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from daemon.experience.link import add_arguments
from daemon.host.version import CommandLine, add_version
from rltrader import called
from rltrader.install import install_line

NEEDED = ("torch", "onnx", "onnxscript")
USAGE_ERROR, STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rltrader-trainer`; returns the exit code."""
    options = parser().parse_args(arguments)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"rltrader-trainer: {', '.join(missing)} is not installed: run "
            f"`{install_line('cpu', 'training', 'online')}`\n"
        )
        return USAGE_ERROR
    try:
        from training.online.command import main as learn

        return learn(options)
    except KeyboardInterrupt:  # while libraries are loaded, which takes seconds
        return STOPPED


def parser() -> argparse.ArgumentParser:
    """The command line of rltrader-trainer."""
    line = CommandLine(
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
    line.add_argument("--preset", default="cold", help="of the cold start: cold, quick or smoke (%(default)s)")
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


if __name__ == "__main__":
    sys.exit(main())
