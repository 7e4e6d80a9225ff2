"""`rltraderctl drift` and `rltraderctl shadow`: what they print, write and refuse."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from daemon.cli import ctl
from daemon.cli.arguments import NotFound
from daemon.core.events import ShadowAnswered
from daemon.core.records import DecisionRow
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch, JournalError
from daemon.models.drift import DriftResult
from daemon.reports.shadow import ShadowReport
from strategies.kit.manifest import Histogram, Reference, encode
from strategies.registry import strategy
from tests.support.core.desk import MONDAY
from tests.support.desks.desk_run import Desk, tape_rows, write_tape
from tests.support.models.tiny_models import manifest_of, put

FEATURES = (
    Histogram("log_return", (0.5,), (0.5, 0.5), columns=(0,)),
    Histogram("atr14", (0.5,), (0.5, 0.5), columns=(1,), within=((100, 6.0),)),
    Histogram("position_side", (0.5,), (0.5, 0.5), columns=(20,), of_the_desk=True),
    Histogram("rsi14", (0.5,), (1.0, 0.0), columns=(2,)),
)
ACTIONS = Histogram("actions", (0.5, 1.5, 2.5, 3.5, 4.5), (1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
REFERENCE = Reference(40_000, FEATURES, ACTIONS)


def command(name: str, *arguments: object) -> str:
    """What a command prints."""
    options = ctl.parser(name).parse_args([name, *map(str, arguments)])
    stream = io.StringIO()
    assert options.run(options, Console(file=stream, markup=False, width=200)) == 0
    return stream.getvalue()


def drift(*arguments: object) -> str:
    return command("drift", *arguments)


def shadow(*arguments: object) -> str:
    return command("shadow", *arguments)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory of 200 decisions whose newest rows are all 1 in three columns; its model's store beside it."""
    put(tmp_path / "models", manifest_of(strategy("option_scalper"), b"graph", (), reference=REFERENCE), b"graph")
    journal, batch = Journal.create(tmp_path / FILE, {"strategy": "option_scalper"}), CommitBatch()
    row = np.zeros(23, dtype="<f4")
    row[[0, 1, 20]] = 1.0
    for number in range(200):
        batch.rows.append(
            DecisionRow(
                decision=number, kind="policy", bar_ns=MONDAY.open_ns + number * 60 * 10**9, time_ns=0, outcome="hold",
                model="v1", row=row.tobytes(), logits="[1, 0, 0, 0, 0, 0]",
            )
        )  # fmt: skip
    journal.commit(batch)
    journal.close()
    return tmp_path


def test_the_table_says_what_is_beyond_what_training_saw_and_what_is_not(state: Path) -> None:
    output = drift("--state-dir", state, "--models-dir", state / "models")
    assert output.startswith("v1: 200 decisions from 2024-07-01 09:30:00 to 2024-07-01 12:49:00 against 40,000 of its")
    words = {line.split("│")[1].strip(): line.split("│")[-2].strip() for line in output.splitlines() if "│" in line}
    assert words == {
        "log_return": "BEYOND",
        "atr14": "within what training saw",
        "position_side": "of the desk: never alarmed",
        "rsi14": "",
        "actions": "",
    }
    assert "fewer than 500 decisions" in output


def test_json_holds_the_shares_of_every_bin(state: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert drift("--state-dir", state, "--models-dir", state / "models", "--window", 50, "--json") == ""
    result = msgspec.json.decode(capfdbinary.readouterr().out, type=DriftResult)
    assert (result.decisions, result.features[0].expected, result.features[0].found) == (50, (0.5, 0.5), (0.0, 1.0))


def test_what_cannot_be_measured_is_said_with_its_cure(state: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    models = state / "models"
    arguments = ("--state-dir", state, "--models-dir")
    with pytest.raises(NotFound, match="expected 1 or more"):
        drift(*arguments, models, "--window", 0)
    with pytest.raises(NotFound, match="give the model store of this desk with --models-dir"):
        drift(*arguments, state / "elsewhere")
    path = models / "option_scalper" / "v1" / "manifest.json"
    path.write_bytes(b"{}")
    with pytest.raises(NotFound, match="cannot be read"):
        drift(*arguments, models)
    path.write_bytes(encode(manifest_of(strategy("option_scalper"), b"graph", ())))
    with pytest.raises(NotFound, match="holds no reference: add it with train-and-export reference"):
        drift(*arguments, models)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(JournalError):
        drift("--state-dir", empty)
    Journal.create(empty / FILE, {"strategy": "option_scalper"}).close()
    with pytest.raises(NotFound, match="holds no decision of a model yet"):
        drift("--state-dir", empty)
    with pytest.raises(NotFound, match="no candidate has answered"):
        shadow("--state-dir", empty)


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay with a candidate whose name a page must not take for markup."""
    folder = tmp_path_factory.mktemp("shadowed")
    run = Desk(write_tape(folder / "tape.csv", tape_rows(1, 60)))

    class Same:
        shadow = "v2<b>"

        def shadow_answer(self, question: Any, state: Any) -> ShadowAnswered:
            answer: Any = run.replay.policy.answer(question, state.now_ns)
            return ShadowAnswered(state.now_ns, question.decision, answer.logits, b"", "v2<b>")

    assert run.run(folder / "state", engine_made=lambda engine: setattr(engine, "_shadow", Same())).failure is None
    return folder / "state"


def test_the_report_says_first_what_may_be_chance(shadowed: Path) -> None:
    lines = shadow("--state-dir", shadowed).splitlines()
    assert lines[0].startswith("v2<b> compared with fixture")
    assert lines[1].startswith("May be chance: over 1 sessions the candidate would have earned 0.00 USD")
    assert any("agreement" in line and "100.00%" in line for line in lines)
    assert any(line.startswith("A candidate's confidence cannot be checked") for line in lines)
    assert any("The rule: Two copies of the desk" in line for line in lines)


def test_json_is_the_report_itself(shadowed: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert shadow("--state-dir", shadowed, "--json") == ""
    report = msgspec.json.decode(capfdbinary.readouterr().out, type=ShadowReport)
    assert (report.model, report.agreement) == ("v2<b>", 1.0)


def test_the_page_stands_alone_and_takes_no_name_for_markup(shadowed: Path, tmp_path: Path) -> None:
    path = tmp_path / "shadow.html"
    assert f"page: {path}" in shadow("--state-dir", shadowed, "--html", path)
    page = path.read_text()
    assert "<h2>v2&lt;b&gt; compared with fixture</h2>" in page
    assert "v2<b>" not in page
    assert [word for word in ("<script", "http:", "https:", "src=") if word in page] == []
    assert page.index("May be chance") < page.index("agreement")


def test_a_page_that_cannot_be_written_is_said(shadowed: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot be written: Is a directory; name another place with --html FILE"):
        shadow("--state-dir", shadowed, "--html", tmp_path)
