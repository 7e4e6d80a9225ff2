"""`rltraderctl reference`: the lists that the code declares, and the digests by which a changed contract is seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon.cli.ctl import main
from daemon.cli.reference import LISTS, digests, fill, schemas
from daemon.operator.log_events import LOG_EVENTS
from tests.support.paths import REPOSITORY

KEPT = REPOSITORY / "docs" / "schemas.sha256"
RENEW = "python -m daemon.cli.ctl reference --digests > docs/schemas.sha256"
COMPARE = "git worktree add --detach BEFORE; cd BEFORE; python -m daemon.cli.ctl reference {name} > {name}"


def test_no_schema_changed_without_its_digest() -> None:
    before, now = (dict(line.split()[::-1] for line in text.splitlines()) for text in (KEPT.read_text(), digests()))
    changes = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    hints = "\n".join(f"{name}: {COMPARE.format(name=name)}; then diff it with this tree's" for name in changes)
    assert changes == [], f"these contracts changed.\n{hints}\nIf that is meant: {RENEW}"


def test_each_list_has_its_place_in_one_manual() -> None:
    manuals = [path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))]
    places = re.findall(r"<!-- rltraderctl reference (\S+) -->", "".join(manuals))
    assert sorted(places) == sorted(LISTS)


def test_a_folder_of_manuals_gets_the_lists_and_the_schemas(tmp_path: Path) -> None:
    (tmp_path / "A.md").write_text("# A\n\n<!-- rltraderctl reference log-events -->\n\nthe end\n")
    (tmp_path / "B.md").write_text("# B\n")
    fill(tmp_path)
    text = (tmp_path / "A.md").read_text()
    assert text.startswith("# A\n\n| event | level | fields | meaning |\n")
    assert text.endswith("|\n\nthe end\n")
    assert text.count("\n| `") == len(LOG_EVENTS)
    assert (tmp_path / "B.md").read_text() == "# B\n"
    assert {path.name: path.read_text() for path in (tmp_path / "schemas").iterdir()} == schemas()


def test_a_schema_is_printed_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "ctl-trades.v1"]) == 0
    printed = capsys.readouterr().out
    assert '"pnl_percent"' in printed
    assert main(["reference", "ctl-trades.v1.json"]) == 0
    assert capsys.readouterr().out == printed


def test_a_name_that_nothing_has_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "trades"]) == 2
    refused = capsys.readouterr().err
    assert "nothing is called 'trades'" in refused
    assert "trade-columns" in refused
    assert "ctl-trades.v1" in refused
