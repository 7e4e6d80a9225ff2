"""`rltrader`: one command whose first word starts a program, with its arguments as they were typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.host.version import in_this_shell
from rltrader import PROGRAMS, call, front, main
from rltrader.install import install_line
from rltrader.parsers import commands, parse
from tests.support.paths import REPOSITORY

HEAVY = ("torch", "numpy", "daemon", "training", "simulator", "strategies", "pydantic", "rich", "argparse")


@pytest.fixture(autouse=True)
def own_names() -> Iterator[None]:
    """Programs have their own names again in this process, whatever started one."""
    yield
    call({})


def rltrader(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `rltrader` in a process of its own, after some statements."""
    program = f"import sys; {before}\nfrom rltrader.front import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_every_program_has_a_word_and_every_word_starts_something() -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == PROGRAMS.keys()
    assert {command.starts for command in front.COMMANDS.values()} >= PROGRAMS.keys() - {"rltrader"}
    assert [word for word in front.COMMANDS if parse("rltrader", [word], really=False).parser is None] == []


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_without_a_command_all_are_listed_and_nothing_heavy_is_loaded(words: tuple[str, ...]) -> None:
    loaded = f"import atexit; atexit.register(lambda: print('loaded', *(set({HEAVY!r}) & sys.modules.keys())))"
    process = rltrader(*words, before=loaded)
    listed = re.findall(r"^  (\w+) +\S", process.stdout, re.MULTILINE)
    assert process.returncode == 0
    assert listed == list(front.COMMANDS)
    assert process.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize("words", [("--help",), ("completion", "bash")])
def test_what_cannot_be_printed_ends_in_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "rltrader", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    why = "No space left on device"
    assert (process.returncode, process.stderr) == (
        1,
        f"rltrader: standard output cannot be written: {why}: lead it elsewhere\n",
    )


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name != "rltrader"])
def test_each_command_and_each_option_has_words(program: str) -> None:
    for words, parser in commands(program):
        assert parser.description, words
        silent = [action.dest for action in parser._actions if not (action.help or isinstance(action.choices, dict))]
        assert not silent, (words, silent)


def test_the_version_is_the_package_s() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert rltrader("--version").stdout == f"rltrader {version}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rnu", "rltrader run"),
        ("dashbord", "rltrader dashboard"),
        ("rltraderctl", "rltrader ctl"),
        ("train-and-export", "rltrader train"),
        ("statsu", "rltrader ctl status"),
    ],
)
def test_a_typo_names_the_nearest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([typed]) == 2
    assert f"no command is called {typed!r}; did you mean `{meant}`?" in capsys.readouterr().err


def test_what_is_near_to_nothing_gets_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["xyzzy"]) == 2
    assert capsys.readouterr().err == "rltrader: no command is called 'xyzzy'; rltrader --help lists all\n"


@pytest.mark.parametrize(
    ("word", "prog"),
    [("run", "rltraderd"), ("ctl", "rltraderctl"), ("train", "train-and-export"), ("simulate", "rltrader-simulator")],
)
def test_a_program_is_called_as_it_was_started(word: str, prog: str) -> None:
    assert parse("rltrader", [word], really=False).parser.prog == f"rltrader {word}"
    assert parse(prog, [], really=False).parser.prog == prog


def test_the_arguments_reach_the_program_as_they_were_typed() -> None:
    arguments = parse("rltrader", ["ctl", "trades", "--limit", "3", "--state-dir", "a b"]).found
    assert arguments is not None
    assert (arguments.command, arguments.limit, arguments.state_dir) == ("trades", 3, Path("a b"))


def test_a_command_to_type_next_is_the_one_command_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lines: list[str] = []

    def program() -> int:
        lines.append(in_this_shell("rltraderctl trades --limit 3"))
        return 0

    monkeypatch.setattr(front, "load", lambda _: SimpleNamespace(main=program))
    monkeypatch.setattr(sys, "argv", ["rltrader", "run"])
    assert front.main() == 0
    assert lines == ["rltrader ctl trades --limit 3"]
    call({})
    assert program() == 0
    assert lines[1:] == ["rltraderctl trades --limit 3"]


def test_a_parser_leaves_nothing_of_its_program_in_this_process() -> None:
    before = list(sys.meta_path)
    parse("rltrader", ["run"], really=False)
    assert in_this_shell("rltraderctl trades").endswith("rltraderctl trades")
    assert sys.meta_path == before


def test_the_exit_code_is_the_program_s(tmp_path: Path) -> None:
    assert rltrader("run", "--config", str(tmp_path / "none.toml"), "--check").returncode == 2


def interrupted() -> int:
    """Stand in for a program at which a person typed Ctrl-C while it was loaded."""
    raise KeyboardInterrupt


def test_ctrl_c_while_a_program_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(front.COMMANDS, "run", front.Command(f"{__name__}:interrupted", ""))
    monkeypatch.setattr(sys, "argv", ["rltrader", "run"])
    assert main() == 130


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_ends_each_program_without_a_traceback(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}"])
    monkeypatch.setattr("rltrader.importlib.import_module", lambda _: interrupted())
    assert main() == 130


def test_a_stream_that_the_starter_closed_leads_to_nowhere() -> None:
    words = "import os, sys, rltrader; sys.argv = ['/usr/bin/rltrader', '--version']; rltrader.main(); "
    words += "assert all(map(os.get_inheritable, range(3))); "
    words += "assert [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()] == [0, 1, 2]"
    line = f'"{sys.executable}" -c "{words}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", line], cwd=REPOSITORY, check=False).returncode == 0


def test_a_missing_extra_is_named_with_the_line_that_installs_it() -> None:
    process = rltrader("ctl", "models", "list", before="sys.modules['onnxruntime'] = None")
    assert process.returncode == 2
    assert process.stderr == (
        "rltrader ctl: onnxruntime is not installed: pip install -c constraints.txt -e '.[cpu]'\n"
    )


@pytest.mark.parametrize(
    ("program", "package", "extra"),
    [
        ("rltrader-publisher", "redis", "online"),
        ("rltrader-trainer", "redis", "online"),
        ("rltraderd", "onnxruntime", "cpu"),
    ],
)
def test_so_does_a_program_by_its_own_name(program: str, package: str, extra: str, tmp_path: Path) -> None:
    before = f"sys.modules[{package!r}] = None; sys.argv = ['/usr/bin/{program}', *sys.argv[1:]]"
    line = f"import sys; {before}\nfrom rltrader import main\nsys.exit(main())"
    words = ["--dry-run", "--state-dir", str(tmp_path / "state")]
    process = subprocess.run([sys.executable, "-c", line, *words], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        f"{program}: {package} is not installed: pip install -c constraints.txt -e '.[{extra}]'"
    )


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        ("file://{wheel}", "pip install '{wheel}[cpu,mcp]'"),
        ("file://{wheel}.gone.whl", "pip install 'rltrader-0.3.0-py3-none-any.whl[cpu,mcp]'"),
        ("https://example.org/{wheel}", "pip install 'rltrader-0.3.0-py3-none-any.whl[cpu,mcp]'"),
        (None, "pip install 'rltrader-0.3.0-py3-none-any.whl[cpu,mcp]'"),
    ],
)
def test_of_a_wheel_the_line_names_the_file_and_never_a_name_of_an_index(
    origin: str | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip's direct_url.json has where an installed package came from (PEP 610)."""
    wheel = tmp_path / "rltrader-0.3.0-py3-none-any.whl"
    wheel.touch()
    text = None if origin is None else json.dumps({"url": origin.format(wheel=wheel), "archive_info": {}})
    installed = SimpleNamespace(version="0.3.0", read_text=lambda name: text if name == "direct_url.json" else "")
    monkeypatch.setattr("rltrader.install.HOME", tmp_path)
    monkeypatch.setattr("rltrader.install.distribution", lambda _: installed)
    assert install_line("cpu", "mcp") == line.format(wheel=wheel)


def test_no_text_lets_pip_ask_an_index_for_a_name_that_is_another_project_s() -> None:
    asks = re.compile(r"pip install [^`\n]*?(?<![/\w-])'?rltrader(\[|'|\s|$)")
    folders = ("daemon", "deploy", "docs", "rltrader", "simulator", "strategies", "training")
    files = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"]
    files += [
        path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.suffix in (".md", ".py", ".txt")
    ]
    assert [str(path) for path in files if asks.search(path.read_text(errors="replace"))] == []
    assert asks.search("pip install -c constraints.txt 'rltrader[mcp]'")


def test_what_is_missing_and_no_extra_has_is_a_bug_and_shown_whole() -> None:
    process = rltrader("ctl", "status", before="sys.modules['msgspec'] = None")
    assert process.returncode == 1
    assert "Traceback" in process.stderr
