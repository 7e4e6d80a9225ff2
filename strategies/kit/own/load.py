"""A strategy of one's own: a Python file that a user names, or an installed package with an entry point.

Imports what was named and nothing else; its object, its spec and its entry are checked before it runs. Invariant:
whatever that code does wrong leaves here as an `OwnStrategyError` that names the file, the line, the cause and the
cure.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import localcontext
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from math import isfinite, prod
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO

import msgspec

from strategies.kit.contract import Spec
from strategies.kit.entry import GROUP, INSTALLED, RULE, OwnStrategyError, StrategyEntry, reporting, told_of_calls
from strategies.kit.parameters import Parameter

DEFAULT_NAME = "STRATEGY"
IMPORT_MOST_S = 60.0  # torch takes seconds
OURS = frozenset(("daemon", "msgspec", "numpy", "rltrader", "strategies", "talib", "training"))
"""Packages that a strategy may import without counting as using a library of its own."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
_PLACE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>[A-Za-z_][A-Za-z0-9_]*))?", re.DOTALL)


class OwnStrategy(NamedTuple):
    """A strategy that is not shipped: its entry and its sources at the time of the import."""

    name: str
    entry: StrategyEntry
    place: str  # to find it again: `/path/to/file.py:NAME` or `entry point NAME`
    package: str  # name and version of the installed package, "" for a file
    file: Path
    root: Path  # the folder that its imports start from
    sources: tuple[Path, ...]  # the file, and the files below `root` that it imports
    digest: str  # 12 hex digits over the sources

    @property
    def shown(self) -> str:
        """Name, package, file and digest on one line."""
        package = f"package {self.package}, " if self.package else ""
        return f"{self.name} ({package}{self.file}, digest {self.digest})"


def installed() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the installed entry points by name; two under one name are a clash. Imports nothing."""
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points.setdefault(point.name, {}).setdefault(f"{_package(point)} {point.value}", point)
    return {name: tuple(points.values()) for name, points in points.items()}


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"


def of_file(text: str, *, named_by_user: bool = True) -> OwnStrategy:
    """Import the strategy at `path/to/file.py` or `path/to/file.py:NAME`, a class or a `StrategyEntry`.

    A file named by a state directory instead of by the user must belong to this user or to root, and nobody else may
    have write permission. Raises OwnStrategyError.
    """
    path, attribute = named_file(text)
    if not path.is_file():
        raise OwnStrategyError(f"{path}: no such file: correct the path, or name it with --strategy path/to/file.py")
    root, module_name = _module_of(path)
    if not named_by_user:
        _refuse_foreign(path, root)
    if str(root) not in sys.path:
        sys.path.append(str(root))
    _refuse_name_clash(path, module_name)
    _let_libraries_in(path, root)
    _note_digest(path, root, module_name)
    module = _import(lambda: _module_at(path, module_name), path)
    entry, name = _entry_of(module, attribute, path)
    return _make_strategy(entry, f"{path}:{name}", "", path, root)


def named_file(text: str) -> tuple[Path, str]:
    """Return the file, by its full path, and the name in it, "" for the usual one. Raises OwnStrategyError."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise OwnStrategyError(f"{text}: expected a Python file: write path/to/file.py or path/to/file.py:Class")
    try:
        return Path(match["file"]).expanduser().resolve(), match["name"] or ""
    except RuntimeError as error:  # no such user, or links in a circle
        raise OwnStrategyError(f"{text}: {error}: correct the path") from error


def of_package(name: str, points: tuple[EntryPoint, ...]) -> OwnStrategy:
    """Import an installed strategy. Raises OwnStrategyError, also where two packages offer the same name."""
    packages = sorted({_package(point) for point in points})
    if len(points) > 1:
        raise OwnStrategyError(
            f"the strategy {name!r} is offered by {len(points)} packages ({', '.join(packages)}): uninstall all but one"
        )
    point = points[0]
    with contextlib.suppress(ImportError, OSError, SyntaxError):  # the import reports it
        source = Path(getattr(importlib.util.find_spec(point.module), "origin", None) or "")
        _let_libraries_in(source, _module_of(source)[0])
        _note_digest(source, _module_of(source)[0], point.module)
    module = _import(lambda: importlib.import_module(point.module), Path(point.module))
    path = Path(getattr(module, "__file__", None) or point.module)
    entry, _ = _entry_of(module, point.attr, path)
    strategy = _make_strategy(entry, f"{INSTALLED}{name}", packages[0], path, _module_of(path)[0])
    if strategy.name != name:
        raise OwnStrategyError(
            f"package {packages[0]}: its entry point is {name!r} and its spec.name is {strategy.name!r}: "
            "give both the same name"
        )
    return strategy


def training_of(strategy: OwnStrategy) -> Any:
    """Import the object that `StrategyEntry.training` names. Raises OwnStrategyError."""
    module_name, _, attribute = strategy.entry.training.partition(":")
    _note_digest(strategy.root / f"{module_name.replace('.', '/')}.py", strategy.root, module_name)
    module = _import(lambda: importlib.import_module(module_name), strategy.file.parent / f"{module_name}.py")
    kind = getattr(module, attribute or "KIND", None)
    if kind is None:
        raise OwnStrategyError(
            f"{module.__file__}: has no {attribute or 'KIND'}, which training={strategy.entry.training!r} of "
            f"{strategy.file} names: correct one of them"
        )
    return kind


def sources_of(start: Iterable[Path], root: Path) -> tuple[Path, ...]:
    """Return these files and the files below `root` that they import, and those that these import, by path."""
    sources, open_ = set(start), list(start)
    while open_:
        path = open_.pop()
        for name in _imports(ast.parse(path.read_bytes()), path, root):
            stem = root / name.replace(".", "/")
            for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
                if file not in sources and file.is_file():
                    sources.add(file)
                    open_.append(file)
    return tuple(sorted(sources))


def _imports(tree: ast.Module, path: Path, root: Path) -> Iterable[str]:
    """Yield the dotted names that a module imports, and their packages."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*parents, *([node.module] if node.module else [])))
            names = [origin, *(f"{origin}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            parts = name.split(".")
            yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def libraries_of(path: Path, root: Path) -> tuple[str, ...]:
    """Return the libraries that the file, and its own files, import: neither Python's nor those of the kit."""
    sources = sources_of([path], root)
    tops = {
        name.partition(".")[0] for source in sources for name in _imports(ast.parse(source.read_bytes()), source, root)
    }
    own_tops = {source.relative_to(root).parts[0].removesuffix(".py") for source in sources}
    return tuple(sorted(tops - OURS - own_tops - sys.stdlib_module_names))


def _let_libraries_in(path: Path, root: Path) -> None:
    """Allow pandas to be imported if the file imports libraries of its own; shipped code runs without it.

    A library that works with or without pandas could compute other numbers here than in training.
    """
    with contextlib.suppress(SyntaxError, UnicodeDecodeError):  # the import reports it
        if libraries_of(path, root):
            sys.meta_path[:] = [finder for finder in sys.meta_path if not getattr(finder, "for_shipped_alone", False)]


def _make_strategy(entry: StrategyEntry, place: str, package: str, path: Path, root: Path) -> OwnStrategy:
    entry = _at_declared_defaults(entry, path)
    name = _check(entry, path)
    _, digest = _imported.get(path, (root, ""))
    return OwnStrategy(
        name, entry, place, package, path, root, sources_of([path], root), digest or _digest_of(path, root)
    )


_imported: dict[Path, tuple[Path, str]] = {}  # folder of its imports and digest, as of the import, by file
_own_files: set[str] = set()
_OURS = tuple(f"{Path(__file__).parents[3] / room}{os.sep}" for room in ("daemon", "strategies", "training"))


def _note_digest(path: Path, root: Path, module_name: str) -> None:
    """Keep the digest of a file that is about to be imported: later its text may be another one than what runs."""
    if module_name not in sys.modules and path.is_file():
        with contextlib.suppress(SyntaxError, UnicodeDecodeError, OSError, ValueError):  # the import reports it
            _imported[path] = (root, _digest_of(path, root))
            _own_files.update(map(str, sources_of([path], root)))


def line_of_own(error: BaseException) -> str:
    """Return file and line of the own code that raised this, itself or in a library that it called; "" for none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in _own_files:
            return f"{frame.filename}, line {frame.lineno}"
        if frame.filename.startswith(_OURS):
            break
    return ""


def changed_since_import(path: Path) -> bool:
    """Return whether an own file, or one that it imports, was changed since this process imported it."""
    root, digest = _imported.get(path, (path.parent, ""))
    try:
        return bool(digest) and _digest_of(path, root) != digest
    except (SyntaxError, UnicodeDecodeError, OSError, ValueError):
        return True


def _digest_of(path: Path, root: Path) -> str:
    """Return 12 hex digits over the file and the files below `root` that it imports."""
    digest = sha256()
    for source in sources_of([path], root):
        digest.update(source.relative_to(root).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _module_of(path: Path) -> tuple[Path, str]:
    """Return the folder that imports start from, and the module's dotted name: a package counts as a whole."""
    root, parts = path.parent, [] if path.stem == "__init__" else [path.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    return root, ".".join(parts)


def _import(load: Callable[[], ModuleType], path: Path) -> ModuleType:
    """Return the loaded module. Raises OwnStrategyError with the line at which the user's code failed.

    Its prints go to standard error, so that a command's JSON stays valid. Its changes to the decimal context and to the
    working directory are undone: `--state-dir` may be relative, and from another directory a desk would begin a new
    journal. From here on each call of its code leaves both as they were, too.
    """
    importlib.invalidate_caches()
    if _keep_process not in told_of_calls:
        told_of_calls.append(_keep_process)
    for problem in _refusals:
        raise OwnStrategyError(problem)
    if path in _too_slow:  # a start imports it several times, and each attempt takes up to a minute
        raise OwnStrategyError(_too_slow[path])
    try:
        with (
            reporting("import"),
            contextlib.redirect_stdout(sys.stderr),
            localcontext(),
            contextlib.chdir(os.curdir),
            _in_time(),
        ):
            return load()
    except SyntaxError as error:
        raise OwnStrategyError(f"{error.filename}, line {error.lineno}: {error.msg}: correct that line") from error
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
        root = str(_module_of(path)[0])  # what the kit or a library refuses was asked for by a line below it
        own_frames = [frame for frame in frames if frame.filename.startswith(root + os.sep)] or frames
        where = f"{own_frames[-1].filename}, line {own_frames[-1].lineno}" if own_frames else str(path)
        cure = "correct it there"
        if isinstance(error, ModuleNotFoundError) and error.name:
            cure = f"install {error.name.partition('.')[0]}, or correct the import"
        problem = f"{where}: cannot be imported: {type(error).__name__.lstrip('_')}: {error}: {cure}"
        if isinstance(error, _ImportTooSlow):
            _too_slow[path] = problem
        raise OwnStrategyError(problem) from error


_begun: list[tuple[int, str, TextIO]] = []
"""Process, working directory and standard output as each call of a strategy's code began, the innermost last."""


def _keep_process(call: str) -> None:
    """Undo what a call changed in the process. See `told_of_calls`.

    A command's relative paths lead where they led, and its JSON has no print of the strategy, which goes to standard
    error. A process that the strategy forked, and that comes back, ends: it has the desk's sockets, and would take what
    comes there.
    """
    if call:
        _begun.append((os.getpid(), _folder(), sys.stdout))
        sys.stdout = sys.stderr
    elif _begun:
        process, folder, sys.stdout = _begun.pop()
        if process != os.getpid():
            os.write(
                2, b"a process that the strategy forked came back from its call: it ends; let it do its work and exit\n"
            )
            os._exit(1)
        if folder and folder != _folder():
            with contextlib.suppress(OSError):  # it was removed meanwhile
                os.chdir(folder)


def _folder() -> str:
    """Return the working directory, "" where it was removed."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


_refusals: list[str] = []


def refuse_imports(problem: str) -> None:
    """Make every later import of an own strategy in this process raise OwnStrategyError with this text."""
    _refusals.append(problem)


def digest_of_place(place: str) -> str:
    """Return a digest of the file at a place and of its own imports; "" where the place is no file on this machine."""
    match = _PLACE.fullmatch(place)
    if match is None:
        return ""
    path, digest = Path(match["file"]), sha256()
    sources: tuple[Path, ...] = (path,)
    with contextlib.suppress(SyntaxError, OSError, ValueError):
        sources = sources_of([path], _module_of(path)[0])
    for source in sources:
        with contextlib.suppress(OSError):
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()


class _ImportTooSlow(TimeoutError):
    """The import took too long and was interrupted."""


_too_slow: dict[Path, str] = {}  # error text by file that was too slow


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Raise TimeoutError in an import that takes longer than `IMPORT_MOST_S`, such as one that waits for a network.

    Otherwise a start could hang while nobody watches the open positions. Only the main thread is interrupted.
    """

    def interrupt(*_: object) -> None:
        raise _ImportTooSlow(f"its import takes longer than {IMPORT_MOST_S:g} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former_handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, IMPORT_MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, former_handler)


_NOT_OWN = (str(Path(__file__)), str(Path(importlib.__file__ or "").parent), "<")


def _is_own(filename: str) -> bool:
    """Return whether a frame of a traceback lies neither here nor in the interpreter's importer."""
    return not filename.startswith(_NOT_OWN)


def _refuse_name_clash(path: Path, module_name: str) -> None:
    """Raise OwnStrategyError where another module, of Python or of a library, has the file's name."""
    other_file = getattr(sys.modules.get(module_name), "__file__", None) or ""
    if module_name not in sys.modules and "." not in module_name:
        other_spec = importlib.util.find_spec(module_name)
        origin = (other_spec.origin or "") if other_spec is not None else ""
        libraries = (sys.prefix, sys.base_prefix, "built-in", "frozen")
        other_file = origin if origin.startswith(libraries) else ""
    if other_file and Path(other_file).resolve() != path:
        raise OwnStrategyError(
            f"{path}: the module name {module_name!r} is already taken by {other_file}: rename the file"
        )


def _module_at(path: Path, module_name: str) -> ModuleType:
    """Import this very file, though others on the path may have its name; a package's module through the package."""
    if module_name in sys.modules or "." in module_name:
        loaded_module = importlib.import_module(module_name)
        if Path(loaded_module.__file__ or "").resolve() != path:
            raise ImportError(
                f"the package of {module_name} is already taken by {loaded_module.__file__}: rename the folder"
            )
        return loaded_module
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _refuse_foreign(path: Path, root: Path) -> None:
    """Raise OwnStrategyError where another user could have written the file, what it imports, or a folder above."""
    sources: tuple[Path, ...] = (path,)
    with contextlib.suppress(SyntaxError):  # the import reports it
        sources = sources_of([path], root)
    for place in (*sources, *path.parents):
        info = place.stat()
        others_write = bool(info.st_mode & stat.S_IWOTH)
        if place in path.parents and place != path.parent:
            # such as /tmp: nobody moves another's folder away
            others_write = others_write and not info.st_mode & stat.S_ISVTX
        if info.st_uid not in (os.geteuid(), 0) or others_write:
            raise OwnStrategyError(
                f"{path}: another user may write to {place}, so the state directory's word is not enough to run it: "
                f"name it yourself with --strategy {path}"
            )


def _entry_of(module: ModuleType, attribute: str, path: Path) -> tuple[StrategyEntry, str]:
    """Return the entry that `attribute` names in the module, by default `STRATEGY`, and its name there."""
    target = getattr(module, attribute or DEFAULT_NAME, None)
    if target is None:
        candidates = [
            name for name, value in vars(module).items() if isinstance(value, StrategyEntry) or _is_class(value)
        ]
        hint = f"name one of {', '.join(candidates)}" if candidates else "give it STRATEGY = StrategyEntry(...)"
        raise OwnStrategyError(f"{path}: has no {attribute or DEFAULT_NAME}: {hint}")
    if isinstance(target, StrategyEntry):
        return target, attribute or DEFAULT_NAME
    default = getattr(module, DEFAULT_NAME, None)
    if isinstance(default, StrategyEntry) and default.make is target:
        return default, DEFAULT_NAME
    declaration = getattr(target, "declaration", getattr(module, "DECLARATION", None))
    if not _is_class(target) or declaration is None:
        raise OwnStrategyError(
            f"{path}: {attribute or DEFAULT_NAME} is no StrategyEntry, nor a class with `spec` in a file with "
            "DECLARATION: see docs/ADD_A_STRATEGY.md"
        )
    return StrategyEntry(target, declaration, desk=target.__name__.lower()), attribute


def _is_class(value: object) -> bool:
    return inspect.isclass(value) and hasattr(value, "spec") and hasattr(value, "observe")


def _at_declared_defaults(entry: StrategyEntry, path: Path) -> StrategyEntry:
    """Return an entry whose `make` uses the declared defaults. Raises OwnStrategyError for parameters that are wrong.

    The constructor may have other defaults: a desk would trade those, and show the declared ones.
    """
    if bool(entry.parameters) != (entry.with_parameters is not None):
        raise OwnStrategyError(
            f"{path}: its StrategyEntry has parameters or with_parameters alone: give both, the second makes the "
            "strategy for values of the first"
        )
    declared: Mapping[Any, Any] = entry.parameters
    if not isinstance(declared, Mapping):
        raise OwnStrategyError(f"{path}: its parameters are {declared!r:.200}, expected a dict: name -> kit.Parameter")
    for name, one in declared.items():
        numbers = (one.default, one.low, one.high) if isinstance(one, Parameter) else ("",)
        if not all(isinstance(number, int | float) for number in numbers):
            raise OwnStrategyError(
                f"{path}: the parameter {name!r} is {one!r:.200}, expected a kit.Parameter of numbers: its default, "
                "the least and the most, as kit.Parameter(10, 2, 60)"
            )
        if not (isinstance(name, str) and NAME.fullmatch(name)) or one.taken(one.default) is None:
            raise OwnStrategyError(
                f"{path}: the parameter {name!r} has the default {one.default!r}, expected small letters, digits and _ "
                f"for its name, and {one.expected} for its default"
            )
    make = entry.with_parameters
    if make is None:
        return entry
    return entry._replace(make=lambda: make({name: one.default for name, one in entry.parameters.items()}))


def _check(entry: StrategyEntry, path: Path) -> str:
    """Return the strategy's name. Raises OwnStrategyError for an object that is no strategy."""
    try:
        with reporting("make"):
            strategy = entry.make()
    except (Exception, SystemExit) as error:
        raise OwnStrategyError(f"{path}: the strategy cannot be made: {type(error).__name__}: {error}") from error
    with reporting("start"):
        fault = strategy_fault(entry, strategy)
    if fault:
        raise OwnStrategyError(f"{path}: {fault}")
    name = strategy.spec.name
    if not NAME.fullmatch(name):
        raise OwnStrategyError(
            f"{path}: spec.name is {name!r}, expected small letters, digits and _, such as sma_cross"
        )
    return name


KEEPS = {"bar": ("correct",), "session": ("remember", "readjust", "known")}
"""`Spec.decides` -> the methods with which such a strategy keeps bars."""
_DESK = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)  # part of a file's name

_SPEC: tuple[tuple[str, Callable[[Any, Spec], bool], str], ...] = (
    (
        "symbols",
        lambda v, _: bool(v) and all(x and x == x.strip().upper() for x in v),
        "such as ('SPY', 'QQQ')",
    ),
    ("symbols", lambda v, _: len({*v}) == len(v), "each symbol once"),
    ("history_bars", lambda v, spec: v >= (spec.decides == "session"), "1 or more of days, 0 or more of other bars"),
    ("window", lambda v, _: v >= 1, "1 or more"),
    ("observation_shape", lambda v, _: type(v) is tuple and bool(v) and min(v) >= 1, "such as (5,)"),
    ("dtype", lambda v, _: v == "float32", "'float32'"),
    (
        "features",
        lambda v, spec: 1 <= len(v) <= prod(spec.observation_shape),
        "a name for each number, no more than observation_shape has",
    ),
    ("actions", lambda v, _: 1 <= len({*v}) == len(v), "a name for each answer, each once"),
    ("temperature", lambda v, _: isfinite(v) and v > 0.0, "a number above 0"),
    ("recurrent_shape", lambda v, _: v is None or (bool(v) and min(v) >= 1), "None, or such as (64,)"),
)
"""Field of the spec -> its check, and what is expected, in words; checked in this order."""


def strategy_fault(entry: StrategyEntry, strategy: Any) -> str:
    """Return why the object that the entry made is no valid strategy, with the cure; "" if it is valid."""
    spec = getattr(strategy, "spec", None)
    parts = ("state_type", "start", "observe", "decide", *KEEPS.get(getattr(spec, "decides", ""), KEEPS["bar"]))
    lacking = [name for name in parts if not hasattr(strategy, name)]
    if lacking or not isinstance(spec, Spec):
        lack_text = ", ".join(lacking) or "a spec of type Spec"
        return f"{type(strategy).__name__} is no strategy: {lack_text} is missing: see strategies/kit/contract.py"
    if fault := _of_types(spec) or _of_values(spec) or _of_entry(entry, spec):
        return fault
    if spec.by_row and not hasattr(strategy, "options"):
        return f"{type(strategy).__name__} chooses an action for each symbol, and has no options: give it that method"
    try:
        strategy.start()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the user's code raises
        return f"its start() raises {type(error).__name__}: {error}: correct it"
    if entry.training == RULE and (spec.features[-len(spec.actions) :] != spec.actions or spec.window != 1):
        ends = f"features that end with the actions ({', '.join(spec.actions)})"
        return f"a rule answers by the last numbers of its observation: expected window=1, and {ends}"
    return ""


def _of_types(spec: Spec) -> str:
    fields = msgspec.structs.asdict(spec)
    try:
        msgspec.convert(fields, type(spec))
    except msgspec.ValidationError as error:
        cause, _, place = str(error).partition(" - at ")
        name = re.split(r"[.\[`]", place.removeprefix("`$."))[0]
        return _error_text(name, fields.get(name), (cause[:1].lower() + cause[1:]).replace("array", "tuple"))
    return ""


def _of_values(spec: Spec) -> str:
    for name, holds, expected in _SPEC:
        value = getattr(spec, name)
        if not holds(value, spec):
            return _error_text(name, value, f"expected {expected}")
    return ""


def _error_text(name: str, value: object, expected: str) -> str:
    return f"spec.{name} is {value!r:.200}: {expected}: correct it in the spec"


def _of_entry(entry: StrategyEntry, spec: Spec) -> str:
    if spec.rows_are_symbols and entry.with_symbols is None:
        return "spec.rows_are_symbols is True, and its StrategyEntry has no with_symbols: give it"
    for name, kind in (("declaration", Mapping), ("desk", str), ("defaults", Mapping), ("training", str)):
        value = getattr(entry, name)
        if not isinstance(value, kind):
            return f"{name} of its StrategyEntry is {value!r:.200}: expected a {kind.__name__}: correct it"
    if _DESK.fullmatch(entry.desk) is None:
        return f"desk of its StrategyEntry is {entry.desk!r:.200}: expected letters, digits, _ and -, such as sma_cross"
    tables: Mapping[str, object] = entry.defaults
    for table, keys in tables.items():
        if not isinstance(keys, Mapping):
            return f"defaults[{table!r}] of its StrategyEntry is {keys!r:.200}: expected keys and values"
    try:
        msgspec.json.encode(entry.declaration)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"declaration of its StrategyEntry: {error}: expected text, numbers, lists and dicts of them alone"
    return ""
