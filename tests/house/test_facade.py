"""What may be imported from outside: each named in one place, with examples that run, and never taken for another's."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rltrader
from tests.support.paths import REPOSITORY

FACADES = ("rltrader", "strategies.kit")


@pytest.mark.parametrize("name", FACADES)
def test_each_example_of_a_facade_runs_as_it_is_written(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted >= 3
    assert result.failed == 0


@pytest.mark.parametrize("name", FACADES)
def test_a_facade_has_each_name_that_it_promises(name: str) -> None:
    module = importlib.import_module(name)
    assert [one for one in module.__all__ if not hasattr(module, one)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_what_new_strategy_writes_imports_the_kit_by_its_facade_alone() -> None:
    for path in (REPOSITORY / "daemon" / "cli" / "templates").glob("*.txt"):
        assert re.findall(r"from strategies\.kit\S* import|import strategies\.kit", path.read_text()) == [], path.name


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
    done = _python(tmp_path, "import rltrader, daemon.host.lean, strategies.kit; print(strategies.__file__)")
    assert (done.returncode, done.stdout.strip()) == (0, str(REPOSITORY / "strategies" / "__init__.py")), done.stderr


def test_a_daemon_of_others_that_was_imported_first_is_refused_by_name(tmp_path: Path) -> None:
    done = _python(tmp_path, "import daemon; daemon.THEIRS; import rltrader")
    assert done.returncode == 1
    assert f"`daemon` is imported already, from {tmp_path / 'daemon'}" in done.stderr
    assert "write `import rltrader` above that import" in done.stderr


def test_a_module_is_run_from_here_whatever_lies_in_the_working_folder(tmp_path: Path) -> None:
    run = "sys.exit(subprocess.run(rltrader.module_command('daemon.tapes', 'option_scalper')).returncode)"
    done = _python(tmp_path, f"import subprocess, rltrader; {run}")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == "spy_synthetic_30.csv.gz"


def test_a_program_of_another_name_and_a_module_of_others_are_refused() -> None:
    line = [sys.executable, "-c", "import sys, rltrader; sys.argv = ['/usr/bin/rltradr']; rltrader.main()"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no program is called 'rltradr'" in done.stderr
    line = [sys.executable, "-m", "rltrader.module", "json.tool"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'json.tool' is no module of daemon, simulator, strategies, training" in done.stderr
