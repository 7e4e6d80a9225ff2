"""The merged sources of the settings: defaults, the strategy's, a calibration, the file, environment, command line.

Each value keeps its origin. Each problem is one line that names key, value, source, expectation and cure.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from daemon.core.limits import AUTO
from daemon.engine.state_dir import peek
from daemon.host.own_files import StateDirError
from daemon.host.whole_files import read_problem, toml_problem
from daemon.journal.rows import STRATEGY_FROM, JournalError
from strategies.kit.entry import OwnStrategyError
from strategies.registry import STRATEGIES, VARIABLE, add, entry, is_known, names, own, same_file

ENVIRONMENT_PREFIX = "RLTRADER_"
OTHER_VARIABLES = ("RLTRADER_DATA", VARIABLE)  # not settings: recorded data for the tests; files of strategies
NEAR = 0.85  # least similarity of a misspelt variable to a known one
STRATEGY_DEFAULT, FILE, ENVIRONMENT, COMMAND_LINE = range(4)  # precedence, highest last
NOT_OF_A_STRATEGY = frozenset(
    ("desk", "paths", "alpaca", "clock", "service", "log", "journal", "control", "mqtt", "metrics", "alarms")
)
TABLE_NEAR = 0.75  # least similarity of a misspelt table's name to a known one
UNKNOWN_COUNT_WITH = "risk"  # table with which an unknown one that resembles no other is counted
RETIRED = {
    "risk.day_trades_max": "the rule of day trades ended in June 2026: remove the key; risk.intraday_exposure_max "
    "limits what is held and ordered to what the equity carries"
}
"""Keys of older files, with the cure for one that limits something. The others are ignored."""
KEYS = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")
OPERATOR_SECRETS = ("MQTT_PASSWORD", "MQTT_COMMAND_KEYS", "GUARD_KEY")
_LIKE_OURS = re.compile("__|^rl_?t", re.IGNORECASE)  # the recognisable part of a misspelt variable of ours
KEY_LEAST = 8  # characters: anything shorter is no key and may be part of a word
_SECRET = re.compile(r"apca|secret|password|token|api_?key|key_?id", re.IGNORECASE)


class ConfigError(Exception):
    """A mistake of the operator: the daemon refuses to start, with exit code `EXIT_CODE`. One line for each problem."""


class Merged:
    """The merged sources: values, their origins, and problems so far."""

    def __init__(self, known_keys: Mapping[str, Mapping[str, object]], only: Collection[str] | None = None) -> None:
        """Take values for all tables, or `only` for these. A table that nobody knows counts with the one whose name it
        all but has; else it may mean any, and counts with all that a strategy decides by.
        """
        self._only = None if only is None else frozenset(only)
        self.tables: dict[str, dict[str, object]] = {}
        self.problems: list[str] = []
        self._defaults = {
            f"{section}.{key}": value for section, keys in known_keys.items() for key, value in keys.items()
        }
        self._sections = tuple(known_keys)
        self.origins: dict[str, str] = {}
        self.hidden: dict[str, str] = {}  # key -> the file whose other value the environment hides
        self._ranks: dict[str, int] = {}
        self._common: dict[str, object] = {}  # keys of the file's tables for all strategies, by dotted key
        self._of_strategies: dict[str, dict[str, object]] = {}  # keys of its tables for one strategy
        # tables of strategies that are not shipped, or unknown ones
        self._unknown_tables: list[tuple[str, object, str]] = []
        self._file = ""

    def add_file(self, path: Path) -> None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {read_problem(error)}: check the path given with --config") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {toml_problem(error)}") from error
        for section, keys in tables.items():
            if isinstance(keys, dict) and section in self._sections:
                for key, value in keys.items():
                    self._common[f"{section}.{key}"] = value
                    self.put(f"{section}.{key}", value, str(path), FILE)
            elif isinstance(keys, dict) and section in STRATEGIES:
                self._add_table_of(section, keys, str(path))
            elif section in self._sections:
                if not self._counts(section):
                    continue
                self.problems.append(f"{section} is {keys!r} (from {path}): expected a table: write [{section}]")
            else:
                self._unknown_tables.append((section, keys, str(path)))

    def name_strategy(self) -> None:
        """Import a strategy of one's own and put its name in place of its file; then judge the unknown tables.

        The state directory remembers the file. Raises ConfigError for a file that cannot be used.
        """
        desk = self.tables.get("desk", {})
        text, old_name = desk.get("strategy"), ""
        if text is None or (isinstance(text, str) and not is_known(text)):
            old_name = self._name_in_journal()
            if text is None and old_name:
                self.put("desk.strategy", old_name, "the state directory", STRATEGY_DEFAULT)
                text = old_name
        if isinstance(text, str):
            try:
                self.tables.setdefault("desk", {})["strategy"] = name = add(text)
                if name != old_name and same_file(name, old_name):
                    own(old_name)  # which reports that its file has another name now
            except OwnStrategyError as error:
                origin = self.origins.get("desk.strategy", "the state directory")
                raise ConfigError(f"desk.strategy (from {origin}): {error}") from error
            except ValueError:
                pass  # an unknown name: the checks report it
        for section, keys, path in self._unknown_tables:
            if isinstance(keys, dict) and is_known(section):
                self._add_table_of(section, keys, path)
                continue
            of_strategy = isinstance(keys, dict) and bool(keys) and all(isinstance(key, dict) for key in keys.values())
            if not self._counts(UNKNOWN_COUNT_WITH if of_strategy else section):
                continue
            secrets = [key for key in keys if _SECRET.search(key)] if isinstance(keys, dict) else []
            for key in secrets or [""]:
                self._refuse(f"{section}.{key}" if key else section, path, (*self._sections, *names()))

    def _name_in_journal(self) -> str:
        """Return the own strategy of the state directory's journal, "" for none; register its file."""
        path = Path(str(self.tables.get("paths", {}).get("state_dir") or self._defaults["paths.state_dir"]))
        try:
            mine = path.is_dir() and path.stat().st_uid == os.geteuid()
            meta = peek(path) if mine else None
        except (OSError, ValueError, sqlite3.Error, StateDirError, JournalError):
            return ""  # reported when it is opened
        return meta.get("strategy", "") if meta and STRATEGY_FROM in meta else ""

    def _add_table_of(self, strategy: str, tables: Mapping[str, object], path: str) -> None:
        """Add the file's tables for one strategy, which count if it is the desk's."""
        self._file, table_of = path, self._of_strategies.setdefault(strategy, {})
        for table, keys in tables.items():
            if not isinstance(keys, dict):
                expected = f"expected a table: write [{strategy}.{table}]"
                self.problems.append(f"{strategy}.{table} is {keys!r} (from {path}): {expected}")
                continue
            if table == "parameters" and self._counts("desk"):
                words = value_text([f"{key}={value_text(value)}" for key, value in keys.items()])
                self.problems.append(
                    f"{strategy}.{table} (from {path}) is unknown: write parameters = {words} in [desk]"
                )
                continue
            for key, value in keys.items():
                name = f"{table}.{key}"
                if not self._counts(table):
                    continue
                if (name not in self._defaults and name not in RETIRED) or table in NOT_OF_A_STRATEGY:
                    allowed_keys = [
                        default for default in self._defaults if default.partition(".")[0] not in NOT_OF_A_STRATEGY
                    ]
                    self._refuse(f"{strategy}.{name}", path, [f"{strategy}.{default}" for default in allowed_keys])
                else:
                    table_of[name] = value

    def add_strategy(self) -> None:
        """Add the defaults of the desk's strategy, once its name is known."""
        name = self.tables.get("desk", {}).get("strategy", self._defaults["desk.strategy"])
        if not isinstance(name, str):
            return
        for table, keys in entry(name).defaults.items() if is_known(name) else ():
            for key, value in keys.items():
                if f"{table}.{key}" in self._defaults:  # `put` refuses any other
                    self._defaults[f"{table}.{key}"] = value
                self.put(f"{table}.{key}", value, f"default of {name}", STRATEGY_DEFAULT)
        for key, value in self._of_strategies.get(name, {}).items():
            self._put_of_strategy(name, key, value)

    def add_calibration(self) -> None:
        """Add the results of a calibration as defaults of `[paper]`; keep the defaults without a result."""
        path = self.tables.get("paths", {}).get("calibration")
        if not self._counts("paper") or not path or not isinstance(path, str) or "\0" in path:
            return  # a value that is no path is reported with the checks of all keys
        from daemon.tapes.files import TapeError
        from daemon.tapes.quotes.calibration_file import read_calibration

        try:
            calibration = read_calibration(Path(path))
        except TapeError as error:
            self.problems.append(f"paths.calibration (from {self.origins['paths.calibration']}): {error}")
            return
        if calibration.synthetic:
            problem = (
                f"{path} was fitted to made-up quotes ({calibration.synthetic}): expected recorded ones: fit to those"
            )
            self.problems.append(f"paths.calibration (from {self.origins['paths.calibration']}): {problem}")
            return
        for key in calibration.fitted.__struct_fields__:
            if (value := getattr(calibration.fitted, key)) is not None:
                self.put(f"paper.{key}", value, f"calibration {path}: {calibration.about}", STRATEGY_DEFAULT)

    def _put_of_strategy(self, strategy: str, key: str, value: object) -> None:
        """Add a key of the file's table for the desk's strategy. The common table may not contradict it."""
        table, _, word = key.partition(".")
        common = self._common.get(key, value)
        if common != value:
            both_text = (
                f"{word} = {value_text(common)} in [{table}] and {word} = {value_text(value)} in [{strategy}.{table}]"
            )
            expected = f"expected one value for a desk of {strategy}: remove one of them"
            self.problems.append(f"{key} is written twice in {self._file}: {both_text}: {expected}")
            return
        self.put(key, value, f"{self._file}, [{strategy}.{table}]", FILE)

    def add_environment(self, variables: Mapping[str, str]) -> None:
        keys = {variable(key): key for key in (*self._defaults, *RETIRED)}
        for name, text in sorted(variables.items()):
            if name in OTHER_VARIABLES:
                continue
            if not name.startswith(ENVIRONMENT_PREFIX):
                matches = get_close_matches(name.upper(), keys, n=1, cutoff=NEAR) if _LIKE_OURS.search(name) else []
                if matches and self._counts(keys[matches[0]].partition(".")[0]):
                    self._refuse(name, "the environment", matches)
            elif name in keys:
                key = keys[name]
                self.put(
                    key,
                    _parse_list(text) if isinstance(self._defaults.get(key), tuple) else text,
                    f"environment {name}",
                    ENVIRONMENT,
                )
            elif self._counts(self._table_meant(name, keys)):
                self._refuse(name, "the environment", (*keys, *OTHER_VARIABLES))

    def _table_meant(self, name: str, keys: Mapping[str, str]) -> str:
        """Return the table of an unknown variable: its own, or that of the most similar known variable."""
        table = name.removeprefix(ENVIRONMENT_PREFIX).partition("__")[0].lower()
        near = [] if table in self._sections else get_close_matches(name, keys, n=1, cutoff=NEAR)
        return keys[near[0]].partition(".")[0] if near else table

    def _counts(self, section: str) -> bool:
        """Return whether the values of this table are requested."""
        if self._only is None or section in self._only:
            return True
        meant = [] if section in self._sections else get_close_matches(section, self._sections, 1, TABLE_NEAR)
        return section not in self._sections and (meant or [UNKNOWN_COUNT_WITH])[0] in self._only

    def put(self, key: str, value: object, origin: str, rank: int) -> None:
        """Add one value; refuse an unknown key, or a type that pydantic would convert.

        A value of a higher rank stays.
        """
        if not self._counts(key.partition(".")[0]):
            return
        if key in RETIRED:
            if value not in (0, "0"):
                self.problems.append(f"{key} is {value_text(value)} (from {origin}): {RETIRED[key]}")
            return
        if key not in self._defaults:
            self._refuse(key, origin, self._defaults)
            return
        rank_before, (section, _, name) = self._ranks.get(key, -1), key.partition(".")
        if rank_before > rank:
            return
        if (rank_before, rank) == (FILE, ENVIRONMENT) and value != self.tables[section][name]:
            self.hidden[key] = self.origins[key]
        self.origins[key], self._ranks[key] = origin, rank
        if isinstance(value, bool) and not isinstance(self._defaults[key], bool) and self._defaults[key] != AUTO:
            self.problems.append(self.problem(key, value, f"a value like {value_text(self._defaults[key])}"))
        self.tables.setdefault(section, {})[name] = value

    def problem(self, key: str, value: object, expected: str) -> str:
        origin = self.origins.get(key, "default")
        default = value_text(self._defaults[key]) if key in self._defaults else "none"
        text = _public(value_text(value)) if key.startswith("alpaca.") else value_text(value)
        if origin.startswith("default"):
            return f"{key} is {text} (from {origin}): expected {expected}: set it in the configuration"
        return f"{key} is {text} (from {origin}): expected {expected}: change it there (default: {default})"

    def _refuse(self, key: str, origin: str, known_keys: Iterable[str]) -> None:
        if _SECRET.search(key):
            self.problems.append(
                f"{key} (from {origin}) is a secret: expected only in the environment variables "
                f"{', '.join((*KEYS, *OPERATOR_SECRETS))}: remove it there, and replace it if others could read it"
            )
            return
        within = [known for known in self._defaults if known.endswith(f".{key}")]  # it is outside of its table
        nearest = (within or get_close_matches(key, list(known_keys), n=1, cutoff=0.0))[0]
        self.problems.append(f"{key} (from {origin}) is unknown: did you mean {nearest}? Correct or remove it")


PLAIN = (
    (r", unable to .*", ""),
    (r"less than or equal to", "at most"),
    (r"greater than or equal to", "at least"),
    (r"greater than", "more than"),
    (r"a valid (decimal|number)", "a number"),
    (r"a valid integer", "a whole number"),
    (r"a valid tuple", "a list in square brackets, with commas between its values"),
    (r"a valid boolean", "true or false"),
    (r"a valid string", "text"),
)
"""Pydantic's wordings, and plain ones."""


def error_parts(error: ValidationError) -> Iterator[tuple[str, object, str]]:
    """Yield pydantic's errors as (dotted key, value, expected): one for a value that may be a switch or a word."""
    switches: dict[str, object] = {}
    for detail in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in detail["loc"][:2])
        expected = re.sub(r"^(Input|Value|String) should ", "a value that should ", detail["msg"])
        expected = expected.removeprefix("a value that should be ").replace("a value that should ", "text that should ")
        for jargon, plain in PLAIN:
            expected = re.sub(jargon, plain, expected)
        if detail["loc"][2:] == ("is-instance[UnsetType]",):
            continue  # no file can hold an unset value
        if detail["loc"][2:] == ("bool",):
            switches[key] = detail["input"]
        else:
            yield key, detail["input"], f"true, false or {expected}" if key in switches else expected


def refusal(problems: Iterable[str]) -> ConfigError:
    """Join all problems, a line each; mask this process's environment keys in them."""
    text = "\n".join(problems)
    for name in (*KEYS, *OPERATOR_SECRETS):
        key = os.environ.get(name, "").strip()
        text = text.replace(key, "[hidden]") if len(key) >= KEY_LEAST else text
    return ConfigError(text)


def variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def _parse_list(text: str) -> object:
    """Parse a list from the environment: JSON (`["09:30-09:45"]`) or words with commas between them."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return [word.strip() for word in text.split(",") if word.strip()]


def value_text(value: object) -> str:
    """Return a value as written in a file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if not isinstance(value, str | tuple | list) else json.dumps(value, ensure_ascii=False)


def _public(address: str) -> str:
    """Return an address without secrets: no user, password, query or fragment."""
    _, at, behind = address.rpartition("@")
    return ('"[hidden]@' if at else "") + re.sub(r"[?#].*", '[hidden]"', behind, flags=re.DOTALL)
