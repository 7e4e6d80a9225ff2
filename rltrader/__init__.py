"""The programs of rltrader, and the folder of its code before all others on a process's path.

`daemon`, `simulator`, `strategies` and `training` are everyday names: python-daemon installs a `daemon` too, and many a
project has a folder `strategies`. A wheel keeps the four in this package, where nobody overwrites them, and its file
`rltrader.pth` makes them importable; in a checkout they stand beside it. Importing `rltrader` puts their folder first,
so that they come from here whatever else is installed or lies in the working folder:

    >>> import rltrader
    >>> from strategies.kit import softmax
    >>> softmax([0.0, 0.0], temperature=1.0)
    (0.5, 0.5)

Raises:
    ImportError: one of the four names is imported already, from elsewhere.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

__all__ = ["HOME", "main", "module_command"]

_HERE = Path(__file__).absolute().parent
HOME = _HERE if (_HERE / "daemon").is_dir() else _HERE.parent
"""The folder of the four packages: this one in a wheel, the one above it in a checkout."""

PACKAGES = ("daemon", "simulator", "strategies", "training")
PROGRAMS = {
    "rltrader": "rltrader.front",
    "rltraderd": "daemon.__main__",
    "rltraderctl": "daemon.cli.ctl",
    "rltrader-dashboard": "daemon.dashboard.__main__",
    "rltrader-gateway": "daemon.gateway.command",
    "rltrader-guard": "daemon.guard.command",
    "rltrader-mcp": "daemon.dashboard.mcp_server",
    "rltrader-notify": "daemon.notify.command",
    "rltrader-pod": "daemon.host.pod.__main__",
    "rltrader-publisher": "daemon.experience.__main__",
    "rltrader-simulator": "simulator.__main__",
    "rltrader-trainer": "training.online.__main__",
    "train-and-export": "training.__main__",
}
"""An installed program -> the module whose `main()` it is."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""
UNHEARD, NOT_WRITTEN, NOT_LOADED = 141, 1, 1
"""Exit codes where nobody reads standard output any more (as a shell has it), where it cannot be written, and where a
package is missing: systemd starts the program again, as it may come back with an upgrade under way."""
_called: dict[str, str] = {}  # program -> what a person types for it, where that is not its name


def _put_home_first() -> None:
    for name in PACKAGES:
        loaded = sys.modules.get(name)
        if loaded is None:
            continue
        places = [Path(place).resolve() for place in getattr(loaded, "__path__", None) or [str(loaded.__file__)]]
        if places != [(HOME / name).resolve()]:
            raise ImportError(
                f"`{name}` is imported already, from {places[0] if places else 'elsewhere'}; rltrader's own is "
                f"{HOME / name}: write `import rltrader` above that import, or run the two in processes of their own"
            )
    home = str(HOME)
    if home in sys.path:
        sys.path.remove(home)
    sys.path.insert(0, home)


def module_command(module: str, *arguments: object) -> list[str]:
    """Return the command line of a module of rltrader in a process of its own, safe from the working folder's names."""
    return [sys.executable, "-P", "-m", "rltrader.module", module, *map(str, arguments)]


def called(program: str) -> str:
    """Return what a person types for a program of `PROGRAMS` here: its name, or `rltrader COMMAND` where that began."""
    return _called.get(program, program)


def call(names: Mapping[str, str]) -> None:
    """Let `called` answer so from now on, with each program's own name where `names` has none."""
    _called.clear()
    _called.update(names)


def load(module: str) -> ModuleType:
    """Import the module of a program; those of the daemon go without pandas, which none of its own code asks for."""
    if module.startswith("daemon."):
        importlib.import_module("daemon.host.lean").without_pandas()
    return importlib.import_module(module)


def _open_standard_streams() -> None:
    """Lead to nowhere what the starter closed: else a socket or a file gets its number, and what is printed there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest free number is its own, since those before it are open
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # a program that this one starts needs it as well
            setattr(sys, name, os.fdopen(number, mode))


def _output_problem() -> OSError | None:
    """Return why standard output takes no line now, None where it does."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _not_written(name: str, problem: OSError) -> int:
    """Say it, and lead the rest to nowhere: the interpreter would try it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(problem, BrokenPipeError):  # the reader, such as `head`, has seen enough
        return UNHEARD
    sys.stderr.write(f"{name}: standard output cannot be written: {problem.strerror}: lead it elsewhere\n")
    return NOT_WRITTEN


def main() -> int:
    """Run the program by whose name this process was started; returns its exit code."""
    _open_standard_streams()
    call({})
    name = Path(sys.argv[0]).name
    if name not in PROGRAMS:
        sys.exit(f"rltrader: no program is called {name!r}: start it as one of {', '.join(PROGRAMS)}")
    try:
        code: int = load(PROGRAMS[name]).main()
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        from rltrader.install import what_installs

        if not (words := what_installs(error)):
            raise
        sys.stderr.write(f"{name}: {words}\n")
        return NOT_LOADED
    except OSError:
        if (problem := _output_problem()) is None:
            raise
        return _not_written(name, problem)
    except KeyboardInterrupt:  # while libraries are loaded, or where a program has no way of its own to end
        return INTERRUPTED
    return code


_put_home_first()
