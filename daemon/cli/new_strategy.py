"""`rltraderctl new-strategy`: write a package with a new strategy that runs at once."""

from __future__ import annotations

import argparse
import gzip
import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from string import Template

from rich.console import Console

from daemon.cli.arguments import NotFound, lead_on
from daemon.tapes import BUNDLED_TAPE, DAILY_TAPE
from strategies.registry import STRATEGIES

TEMPLATES = Path(__file__).with_name("templates")
RULES, PPO, SB3, PLAIN = "rules", "ppo", "sb3", "plain"
_POLICY = {
    RULES: "a rule, which is exported as it is",
    PPO: "how PPO trains it, with a reward and a network to change",
    SB3: "how Stable-Baselines3 trains it",
}
_GRAPH = "An ONNX file of your own takes the rule's place with `--import-onnx FILE` in the first command.\n\n"
_PASSIVE = "The prices of the tape are random, so the policy may learn to hold nothing: hence `--allow-passive`.\n\n"
_NUMBERS = (
    'Its numbers are parameters: `--parameters $one=20` of the first command, `parameters = ["$one=20"]` in `[desk]` '
    "of a configuration,\n`train-and-export sweep` and `search` for many values. See docs/TUTORIAL.md, Parameters.\n\n"
)
_SESSION, _SHARES, _OPTION = ("session", "shares"), ("bar", "shares"), ("bar", "option")
_WHAT = {
    _SESSION: "SPY, QQQ, both or cash, once a day, by the cross of two moving averages.",
    _SHARES: "SPY or cash, every minute, by the cross of two moving averages; flat before the close.",
    _OPTION: "Calls, puts or nothing on SPY, every minute, by the cross of two moving averages.",
}
_PLAIN_WHAT = {
    _SHARES: "The stronger of SPY and QQQ, or cash, every minute, by moving averages; flat before the close."
}
_AVERAGES = {_SESSION: "\nFAST, SLOW = 10, 50", _SHARES: "\nFAST, SLOW = 10, 60"}
_PARAMETER = {_SESSION: "fast", _SHARES: "window"}  # a parameter that the plain template declares
_OF_THE_DESK = {_SESSION: '"weight"', _SHARES: '"held"', _OPTION: '"side"'}
_IMPORTS = {_SESSION: "FAST, SLOW, SPEC, SYMBOLS", _SHARES: "FAST, SLOW, SPEC", _OPTION: "FAST, SLOW, SPEC"}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `new-strategy`."""
    command.set_defaults(run=run)
    command.add_argument("name", type=_name, help="small letters, digits and _, such as sma_cross: also the folder")
    command.add_argument("--cadence", choices=("bar", "session"), required=True, help="when it decides")
    command.add_argument("--holds", choices=("option", "shares"), required=True, help="what it holds")
    template = "where its policy comes from: a rule, our PPO, Stable-Baselines3, or its own file (default: %(default)s)"
    command.add_argument("--template", choices=(*_POLICY, PLAIN), default=RULES, help=template)


def run(options: argparse.Namespace, console: Console) -> int:
    """Write the package into a new folder of its name. Raises NotFound if the request is impossible, OSError."""
    kind = (options.cadence, options.holds)
    if kind not in _WHAT:
        raise NotFound(
            "--cadence session --holds option: no desk decides once a day about options; choose --cadence bar, or "
            "--holds shares"
        )
    if options.template == PLAIN and kind == _OPTION:
        raise NotFound("--template plain is for shares: choose --holds shares, or another template")
    folder = Path(options.name)
    if folder.exists():
        raise NotFound(f"{folder} is there already: choose another name, or move it away")
    files = _files(options.name, kind, options.template)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    symbols = ("SPY", "QQQ") if kind == _SESSION else ("SPY",)
    more = ("QQQ",) if kind == _SHARES and options.template == PLAIN else ()
    (folder / "tape.csv.gz").write_bytes(_tape(DAILY_TAPE if kind == _SESSION else BUNDLED_TAPE, symbols, more))
    console.print(f"wrote {folder}/: {', '.join(sorted((*files, 'tape.csv.gz')))}")
    lead_on(options, program=f"cd {folder} && {_commands(options.name, options.template)[0]}")
    return 0


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most 30 small letters, digits and _: sma_cross")
    if text in STRATEGIES:
        raise argparse.ArgumentTypeError(f"{text!r} is a shipped strategy: choose another name")
    if keyword.iskeyword(text) or text in sys.stdlib_module_names or find_spec(text) is not None:
        raise argparse.ArgumentTypeError(f"{text!r} is the name of another Python module: choose another name")
    return text


def _files(name: str, kind: tuple[str, str], template: str) -> dict[str, str]:
    """Return the text of each file by name."""
    suffix = "_".join(kind)
    cls = "".join(part.capitalize() for part in name.split("_"))
    words = {
        "name": name,
        "cls": cls,
        "package": name.replace("_", "-"),
        "what": _WHAT[kind],
        "policy_row": "" if template == PLAIN else f"| `{name}_training.py` | the policy: {_POLICY[template]} |\n",
        "its_rule": "; its policy is a rule with declared parameters: no torch is needed" if template == PLAIN else "",
        "of_the_desk": _OF_THE_DESK[kind],
        "imports": f"{_IMPORTS[kind]}, {cls}",
        "optional": '\n[project.optional-dependencies]\nsb3 = ["stable-baselines3"]\n' if template == SB3 else "",
        "modules": f'"{name}", "{name}_training"',
        "python": ">=3.11,<3.12",
        "commands": "\n".join(f"    {command}" for command in _commands(name, template)),
        "remark": {RULES: _GRAPH, PLAIN: _NUMBERS.replace("$one", _PARAMETER.get(kind, ""))}.get(template, _PASSIVE),
    }
    if template == PLAIN:
        suffix, words["imports"], words["what"] = f"{PLAIN}_{suffix}", cls, _PLAIN_WHAT.get(kind, words["what"])
        words["modules"], words["python"] = f'"{name}"', ">=3.11"
    else:
        words["rule"] = _fill(f"rule_{suffix}", words)
    words["averages"] = _AVERAGES[kind] if template == PLAIN else ""
    words["tests"] = _fill(f"test_{suffix}", words).rstrip("\n")
    training = {} if template == PLAIN else {f"{name}_training.py": _fill(f"training_{template}", words)}
    return training | {
        f"{name}.py": _fill(f"strategy_{suffix}", words),
        f"test_{name}.py": _fill("test", words),
        "pyproject.toml": _fill("pyproject", words),
        "README.md": _fill("readme", words),
    }


def _commands(name: str, template: str) -> list[str]:
    """Return the commands, run in the package's folder, that make the model."""
    export = f"train-and-export --strategy {name}.py --bars tape.csv.gz --activate"
    if template in (RULES, PLAIN):
        return [export]
    export += " --allow-passive"  # it may have learned to hold nothing: the tape is random
    if template == PPO:
        return [export]
    return [f"python {name}_training.py tape.csv.gz model.zip", f"{export} --import-sb3 model.zip"]


def _fill(template: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)


def _tape(path: Path, symbols: tuple[str, ...], more: tuple[str, ...] = ()) -> bytes:
    """Return the bundled tape's rows of these symbols, with its comment and its header.

    The bars of each symbol in `more` are synthetic: the first symbol's minutes mirrored, without every seventh minute.
    """
    lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines(keepends=True)
    rows = [line for line in lines[2:] if line.startswith(tuple(f"{symbol}," for symbol in symbols))]
    rows_made = [_upside_down(row, symbol) for symbol in more for at, row in enumerate(rows) if at % 7]
    rows = sorted((*rows, *rows_made), key=lambda row: int(row.split(",")[1])) if rows_made else rows
    return gzip.compress("".join((*lines[:2], *rows)).encode(), compresslevel=9, mtime=0)


def _upside_down(row: str, symbol: str) -> str:
    """Return a bar with prices of 250,000 divided by the row's: a rise becomes a fall."""
    _, start, *prices, volume = row.rstrip("\n").split(",")
    open_price, high, low, close = (f"{250_000 / float(price):.2f}" for price in prices)
    return f"{symbol},{start},{open_price},{low},{high},{close},{volume}\n"
