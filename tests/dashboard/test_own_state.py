"""A desk with a model configuration of its own: the page shows its features by the journal alone, without the file."""

from __future__ import annotations

from pathlib import Path

from daemon.config.strategy import strategy_of
from tests.support.browser import JournalRows
from tests.support.dashboards import serving
from tests.support.desks.desk_run import Desk, settings, tape_rows, write_tape
from tests.support.models.online_models import NAME, VERSION, put_momentum

OWN = """
version: 1
window: 2
indicators:
  - {name: ROCP, parameters: {timeperiod: 3}, scale: {divide_by: 0.002}}
  - {name: RSI, parameters: {timeperiod: 7}, scale: {center: 50, divide_by: 20}}
portfolio: [age, position]
heads: {direction: {bars: 4}, risk: {bars: 4}}
"""
FEATURES = ["ROCP(3)", "RSI(7)", "age", "position"]


def test_the_page_names_its_own_features(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    options = {"desk__strategy": NAME, "desk__model_config": str(file)}
    store = put_momentum(tmp_path / "store", strategy_of(settings(tmp_path, **options)))
    desk = Desk(
        write_tape(tmp_path / "tape.csv", tape_rows(1, 40, stubs=2)),
        paths__models_dir=store,
        policy__version=VERSION,
        **options,
    )
    assert desk.run(tmp_path / "state").failure is None
    file.unlink()
    journal = JournalRows(tmp_path / "state")
    (row,) = journal.rows(
        "SELECT decision FROM decisions WHERE kind = 'policy' ORDER BY decision DESC LIMIT 1 OFFSET 5"
    )
    with serving(tmp_path / "state", models_dir=store) as dashboard:
        page = dashboard.computed(f"/api/decision/{row['decision']}")
        assert [name.removesuffix(" SPY") for name in page["features"]] == FEATURES
        state = dashboard.computed(f"/api/transition/{row['decision']}")["rows"][0]["state"]
    assert [cell["feature"] for cell in state] == FEATURES
    assert [cell["before"] for cell in state] == page["rows"][-1][-len(FEATURES) :]
