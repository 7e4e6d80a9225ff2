"""What may be imported from outside: each named in one place, with examples that run, and never taken for another's."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rltrader
from tests.support.manuals import manuals, notebooks
from tests.support.paths import REPOSITORY

SITE = runpy.run_path(str(REPOSITORY / "docs" / "site" / "facades.py"))
FACADES: tuple[str, ...] = SITE["FACADES"]
LAZY = ("training", "daemon.journal")
EXAMPLES = {"rltrader": 3, "strategies.kit": 3, "training": 50, "daemon.journal": 20}
MODEL = "2024-12-04-ef2af89f"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the examples name: a dry run's `state`, and the shipped models."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "onnx_models").symlink_to(REPOSITORY / "onnx_models")
    tape = REPOSITORY / "daemon" / "tapes" / "spy_synthetic_30.csv.gz"
    line = [sys.executable, "-m", "daemon", "--dry-run", "--state-dir", "state", "--bars", str(tape)]
    environment = os.environ | {"RLTRADER_POLICY__VERSION": MODEL, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(line, cwd=folder, env=environment, capture_output=True, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def _names_of(name: str) -> dict[str, Any]:
    module = importlib.import_module(name)
    return {one: getattr(module, one) for one in module.__all__}


@pytest.mark.parametrize("name", FACADES)
def test_each_example_of_a_facade_runs_as_it_is_written(name: str, examples: Path) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    module = importlib.import_module(name)
    doc_tests = [test for test in finder.find(module, name) if test.name == name]
    for one, value in _names_of(name).items():
        if inspect.isclass(value) or inspect.isroutine(value):
            doc_tests += finder.find(value, f"{name}.{one}", globs={})
    for test in doc_tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= EXAMPLES[name]


@pytest.mark.parametrize("name", FACADES)
def test_a_facade_has_each_name_that_it_promises(name: str) -> None:
    module = importlib.import_module(name)
    assert [one for one in module.__all__ if not hasattr(module, one)] == []
    assert len(set(module.__all__)) == len(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = module.no_such_name


@pytest.mark.parametrize("name", FACADES)
def test_each_class_and_function_of_a_facade_has_a_text_of_its_own(name: str) -> None:
    for one, value in _names_of(name).items():
        if inspect.isclass(value):
            assert vars(value).get("__doc__"), one
        elif inspect.isroutine(value):
            assert value.__doc__, one


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_facade_states_each_name_once_for_readers_types_and_imports(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(Path(module.__file__ or "").read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == module._HOME
    assert list(module._HOME) == module.__all__


def _loaded(line: str, folder: Path = REPOSITORY) -> set[str]:
    """Which modules a line of Python loads."""
    program = f"import sys; before = set(sys.modules); {line}; print(*(set(sys.modules) - before))"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_a_lazy_facade_loads_no_library() -> None:
    assert _loaded("import training") & {"numpy", "torch", "gymnasium", "onnxruntime", "pandas"} == set()
    of_journal = _loaded("import daemon.journal")
    assert {one for one in of_journal if one.startswith(("daemon", "strategies"))} == {"daemon", "daemon.journal"}
    assert of_journal & {"numpy", "msgspec", "sqlite3"} == set()


def test_what_only_reads_results_and_bars_loads_no_torch() -> None:
    read = "training.load_bars(training.bundled_bars('option_scalper')); training.load_report"
    assert "torch" not in _loaded(f"import training; {read}")


def test_neither_the_operators_program_nor_a_reader_of_a_journal_loads_ta_lib(examples: Path) -> None:
    read = "book = daemon.journal.open('state'); book.trades(); list(book.decisions()); book.check_chain()"
    assert _loaded(f"import daemon.cli.ctl, daemon.journal; {read}", examples) & {"talib", "torch", "pandas"} == set()


def test_the_page_of_the_facades_is_up_to_date() -> None:
    page = SITE["PAGE"].read_text()
    assert SITE["made"](page) == page, "run .venv/bin/python docs/site/facades.py"


def test_the_manual_of_the_architecture_names_each_facade() -> None:
    text = (REPOSITORY / "docs" / "ARCHITECTURE.md").read_text()
    assert [name for name in FACADES if f"`{name}`" not in text] == []


def test_what_new_strategy_writes_and_the_manuals_show_imports_a_facade_where_it_has_the_name() -> None:
    templates = (REPOSITORY / "daemon" / "cli" / "templates").glob("*.txt")
    for path in (*templates, *(REPOSITORY / page for page in (*manuals(), *notebooks()))):
        for module, names in re.findall(
            r"from ((?:strategies\.kit|training|daemon\.journal)\.\S+) import (.+)", path.read_text()
        ):
            facade = next(name for name in FACADES if module.startswith(f"{name}."))
            overlap = set(re.findall(r"\w+", names.partition("\\n")[0])) & set(importlib.import_module(facade).__all__)
            assert not overlap, f"{path.name}: from {facade} import {', '.join(overlap)}"
        assert "import strategies.kit" not in path.read_text(), path.name


def test_each_name_that_a_manual_takes_from_a_facade_is_one_of_it() -> None:
    count, of = 0, {"training": "training", "journal": "daemon.journal"}
    for page in (*manuals(), *notebooks()):
        text = (REPOSITORY / page).read_text()
        for module, name in re.findall(r"(?<![\w./])(training|journal)\.(\w+)\(", text):
            count += 1
            assert name in importlib.import_module(of[module]).__all__, f"{page}: {module}.{name}"
    assert count > 10


def test_each_program_is_a_module_with_a_main() -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == dict.fromkeys(rltrader.PROGRAMS, "rltrader:main")
    for module in rltrader.PROGRAMS.values():
        assert callable(importlib.import_module(module).main), module


def _python(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in `folder`, where a `daemon` and a `strategies` of others lie."""
    for name in ("daemon", "strategies"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("THEIRS = 1\n")
    program = f"import sys; sys.path.insert(0, ''); sys.path.append({str(REPOSITORY)!r}); {line}"
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


def test_after_importing_it_the_packages_are_ours_whatever_lies_in_the_working_folder(tmp_path: Path) -> None:
    result = _python(tmp_path, "import rltrader, daemon.host.lean, strategies.kit; print(strategies.__file__)")
    assert (result.returncode, result.stdout.strip()) == (0, str(REPOSITORY / "strategies" / "__init__.py")), (
        result.stderr
    )


def test_a_daemon_of_others_that_was_imported_first_is_refused_by_name(tmp_path: Path) -> None:
    result = _python(tmp_path, "import daemon; daemon.THEIRS; import rltrader")
    assert result.returncode == 1
    assert f"`daemon` is imported already, from {tmp_path / 'daemon'}" in result.stderr
    assert "write `import rltrader` above that import" in result.stderr


def test_a_module_is_run_from_here_whatever_lies_in_the_working_folder(tmp_path: Path) -> None:
    run = "sys.exit(subprocess.run(rltrader.module_command('daemon.tapes', 'option_scalper')).returncode)"
    result = _python(tmp_path, f"import subprocess, rltrader; {run}")
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).name == "spy_synthetic_30.csv.gz"


def test_a_program_of_another_name_and_a_module_of_others_are_refused() -> None:
    line = [sys.executable, "-c", "import sys, rltrader; sys.argv = ['/usr/bin/rltradr']; rltrader.main()"]
    result = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "no program is called 'rltradr'" in result.stderr
    line = [sys.executable, "-m", "rltrader.module", "json.tool"]
    result = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "'json.tool' is no module of daemon, simulator, strategies, training" in result.stderr
