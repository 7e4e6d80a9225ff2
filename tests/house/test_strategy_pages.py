"""The strategies' pages say what the code says, and name every deviation from the published source."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from strategies.registry import STRATEGIES
from tests.support.paths import REPOSITORY

pytest.importorskip("torch", reason="networks are counted")
MAKER: dict[str, Any] = runpy.run_path(str(REPOSITORY / "docs" / "site" / "strategy_pages.py"))
PAGES = REPOSITORY / "docs" / "strategies"
DIFFERS = "## Where it differs from the published source"


def test_every_shipped_strategy_has_a_page_and_no_other_page_is_there() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_part_from_the_code_is_up_to_date(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert MAKER["made"](name, page) == page, "run .venv/bin/python docs/site/strategy_pages.py"


def test_a_page_that_says_otherwise_is_found_and_one_without_marks_is_refused() -> None:
    page = (PAGES / "regime_switcher.md").read_text()
    stale = page.replace("| 10 | GROWTH_TILT | 30.0 % | 60.0 % |", "| 10 | GROWTH_TILT | 60.0 % | 30.0 % |")
    assert stale != page
    assert MAKER["made"]("regime_switcher", stale) == page
    with pytest.raises(ValueError, match=r"regime_switcher\.md lacks"):
        MAKER["made"]("regime_switcher", page.replace(MAKER["END"], ""))


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("option_scalper", ("163,559", "60,455", "| 0 | `log_return` |", "| 22 | `position_age` |", "(20 x 23)")),
        ("daily_rebalancer", ("114,547", "[753:803]", "begin at -0.5", "x 0.0001")),
        ("regime_switcher", ("109,841", "| 15 | CASH_HEAVY |", "less 0.001 x turnover", "Episodes of 256 sessions")),
        ("forecast_ensemble", ("360,740", "| 77 | `to_month_end` |", "The agents see 26 numbers")),
        ("online_dqn", ("(205)", "`RSI(14)`", "`gain` with weight 1")),
    ],
)
def test_figures_of_the_design_stand_in_the_part_from_the_code(name: str, texts: tuple[str, ...]) -> None:
    page = MAKER["from_code"](name)
    assert [text for text in texts if text not in page] == []


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("option_scalper", ("23 features", "TA-Lib", "pandas-ta", "aiomqtt", "asyncio-mqtt")),
        ("daily_rebalancer", ("803", "50\n  flags", "Costs are counted once", "inside the graph", "−0.5")),
        ("regime_switcher", ("13 of the 16 regimes", "Price normalised", "256 sessions", "cost is 0.001")),
        ("forecast_ensemble", ("360,740", "18 features", "drawdown")),
        ("online_dqn", ("Redis Streams alone", "pandas-ta", "asyncio-mqtt")),
    ],
)
def test_each_known_deviation_is_named(name: str, named: tuple[str, ...]) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert [text for text in named if text not in page.partition(DIFFERS)[2]] == []
