"""What an assistant reads over the Model Context Protocol, asked by the protocol's own client.

Expected values: the tables of the journal by SQL, the manuals' files, and what MCP's specification says of tools.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from daemon.dashboard.desks import name_desks
from daemon.dashboard.mcp_server import Manuals, ReadingDesk, main, server
from tests.support.dashboards import Played
from tests.support.paths import REPOSITORY

STORE = REPOSITORY / "onnx_models"
ACTING = ("accept", "adopt", "cancel", "close_", "flatten", "halt", "order", "panic", "pause", "resume", "set_", "swap")


def reading(replay: Played, models_dir: Path = STORE) -> Any:
    return server(ReadingDesk(name_desks([replay.path]), models_dir), Manuals(REPOSITORY / "docs"))


async def ask(client: Client, tool: str, **arguments: Any) -> Any:
    """The tool's answer, decoded."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return json.loads(text_of(result))


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Why the tool does not answer."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return text_of(result)


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def test_why_it_sold_is_answered_with_the_decision_s_own_numbers(replay: Played) -> None:
    (trade,) = replay.sql("SELECT * FROM trades WHERE left_ns IS NOT NULL ORDER BY left_ns DESC LIMIT 1")
    (entry,) = replay.sql("SELECT * FROM decisions WHERE decision = ?", trade["entry_decision"])
    exit_orders = replay.sql("SELECT * FROM orders WHERE work LIKE ? || '.%'", str(trade["exit_decision"]))
    async with Client(reading(replay)) as client:
        lines = (await ask(client, "trades", symbol=trade["symbol"]))["trades"]
        line = next(line for line in lines if line["exit_decision"] == trade["exit_decision"])
        entry_answer = await ask(client, "explain_decision", number=line["entry_decision"])
        exit_answer = await ask(client, "explain_decision", number=line["exit_decision"])
    assert (entry_answer["line"]["action"], entry_answer["line"]["model"]) == (entry["action"], entry["model"])
    assert entry_answer["logits"] == pytest.approx(json.loads(entry["logits"]))
    assert (len(entry_answer["rows"]), len(entry_answer["rows"][0]), entry_answer["pending"]) == (20, 23, False)
    assert {order["client_order_id"] for order in exit_answer["orders"]} == {
        order["client_order_id"] for order in exit_orders
    }
    assert line["pnl_usd"] == pytest.approx(float(trade["pnl_usd"]), abs=0.005)


async def test_a_refusal_names_what_the_assistant_gave(replay: Played) -> None:
    async with Client(reading(replay)) as client:
        assert "span is '2W', expected one of 1D, " in await refused(client, "performance", span="2W")
        assert "begin is 'soon', expected a date" in await refused(client, "trades", begin="soon")
        assert "end is 'soon', expected a date" in await refused(client, "trades", end="soon")


def test_a_decision_that_is_waited_for_is_looked_at_once(replay: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its observation is computed from rows that are there: newer ones change nothing."""
    desks = name_desks([replay.path])
    (desk,) = desks.values()
    reading_desk, answers = ReadingDesk(desks, STORE), iter([True, True, False])
    looks: list[int] = []
    real = desk.look

    def look() -> Any:
        looks.append(1)
        return real()

    monkeypatch.setattr(desk, "look", look)
    monkeypatch.setattr("daemon.dashboard.api.decision", lambda *_: {"pending": next(answers)})
    reading_desk.fleet()
    once = len(looks)
    assert reading_desk.explain("", 1) == {"pending": False}
    assert len(looks) <= once + 1


async def test_no_tool_acts_and_nothing_is_written_beside_the_journal(replay: Played, tmp_path: Path) -> None:
    store = tmp_path / "store" / "option_scalper" / "1"
    store.mkdir(parents=True)
    (store / "report.json").write_text("{}")
    (store / "policy.onnx").write_bytes(b"no graph")
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in replay.path.iterdir()}
    async with Client(reading(replay, tmp_path / "store")) as client:
        tools = (await client.list_tools()).tools
        newest = (await ask(client, "decisions", limit=1))["lines"][0]["decision"]
        why = await ask(client, "explain_decision", number=newest)
        for tool in tools:
            if not tool.input_schema.get("required"):
                await client.call_tool(tool.name, {})
        assert await ask(client, "reports") == ["option_scalper/1/report.json"]
    assert len(tools) == 13
    assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
    assert not [tool.name for tool in tools if tool.name.startswith(ACTING)]
    assert why["contribution"] is None
    assert "not opened here" in why["missing"]
    after = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in replay.path.iterdir()}
    assert after == before


async def test_a_file_of_the_store_is_read_in_parts_and_nothing_outside_it(replay: Played, tmp_path: Path) -> None:
    version = tmp_path / "store" / "option_scalper" / "1"
    version.mkdir(parents=True)
    (version / "report.json").write_text("a" * 20_000 + "b" * 5)
    (tmp_path / "key.txt").write_text("secret")
    (version / "link.txt").symlink_to(tmp_path / "key.txt")
    (tmp_path / "store" / "option_scalper" / "2").symlink_to(tmp_path, target_is_directory=True)
    async with Client(reading(replay, tmp_path / "store")) as client:
        assert await ask(client, "reports") == ["option_scalper/1/report.json"]
        first = await ask(client, "read_report", name="option_scalper/1/report.json")
        rest = await ask(client, "read_report", name="option_scalper/1/report.json", offset=first["next"])
        for name in ("option_scalper/1/link.txt", "option_scalper/2/key.txt", "../key.txt", str(tmp_path / "key.txt")):
            assert "expected a name of `reports`" in await refused(client, "read_report", name=name)
        assert "expected 0 to 20005" in await refused(
            client, "read_report", name="option_scalper/1/report.json", offset=20_006
        )
    assert (first["next"], len(first["text"]), rest) == (
        20_000,
        20_000,
        {"text": "bbbbb", "next": 0, "characters": 20_005},
    )


async def test_manuals_are_found_by_words_and_read_by_section(replay: Played, tmp_path: Path) -> None:
    (tmp_path / "BOOK.md").write_text(
        "# Book\n\nBegin.\n\n## Stops\n\nA stop rests.\n\n```\n# no heading: rests\n```\n"
    )
    (tmp_path / "key.pem").write_text("secret stop")
    desk = ReadingDesk(name_desks([replay.path]), STORE)
    async with Client(server(desk, Manuals(tmp_path))) as client:
        matches = await ask(client, "search_manuals", words="STOP rests")
        section = await ask(client, "read_manual", name="BOOK", section="Stops")
        whole = await ask(client, "read_manual", name="BOOK")
        assert "expected one of: Book; Stops" in await refused(client, "read_manual", name="BOOK", section="Ends")
        assert "expected one of: BOOK" in await refused(client, "read_manual", name="../BOOK")
        assert "words are empty" in await refused(client, "search_manuals", words=" ")
    assert [(line["manual"], line["section"]) for line in matches] == [("BOOK", "Stops")]
    assert section["text"] == "## Stops\n\nA stop rests.\n\n```\n# no heading: rests\n```\n"
    assert whole["text"] == (tmp_path / "BOOK.md").read_text()


async def test_wrong_values_are_refused_with_what_is_expected(replay: Played) -> None:
    async with Client(reading(replay)) as client:
        assert "expected one of acted, hold" in await refused(client, "decisions", outcome="lucky")
        assert "expected a date as 2024-08-05" in await refused(client, "trades", begin="yesterday")
        assert "expected one of: " in await refused(client, "now", desk="another")
        assert "no decision" in await refused(client, "explain_decision", number=10**9)


async def test_a_client_starts_it_as_a_program_and_a_folder_without_a_journal_is_said(tmp_path: Path) -> None:
    program = ["-m", "daemon.dashboard.mcp_server", "--state-dir", str(tmp_path), "--models-dir", str(STORE)]
    parameters = StdioServerParameters(command=sys.executable, args=program, cwd=REPOSITORY)
    async with Client(parameters) as client:
        (line,) = (await ask(client, "desks"))["desks"]
        assert (line["name"], line["running"]) == (tmp_path.name, False)
        assert "no journal here" in await refused(client, "trades")


def test_a_desk_that_is_named_wrongly_ends_it_with_a_line_and_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--desks", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
