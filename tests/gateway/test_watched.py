"""What others see of a gateway: the status file, and what a scrape says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from prometheus_client import generate_latest

from daemon.dashboard.server import fleet_response
from daemon.gateway.watched import GatewayStatusFile
from daemon.operator.gateway_view import STATUS_FILE, gateway_view
from tests.support.gateway_stage import stage


async def test_the_file_and_a_scrape_have_each_sub_account_the_sum_and_the_brokers_figures(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 4)
        await s.until(lambda: bool(s.held("a")))
        await s.refused("b", 1, "sell")
        await s.settled()
        status_file = GatewayStatusFile(s.server, tmp_path)
        running = asyncio.create_task(status_file.run())
        await s.until((tmp_path / STATUS_FILE).exists)
        running.cancel()
        status = json.loads((tmp_path / STATUS_FILE).read_text())
        cash = {row["name"]: row["cash"] for row in status["accounts"]}
        # 20,000 less 4 shares at 500.01
        assert cash == {"main": "60000.00", "a": "17999.96", "b": "20000.00"}
        assert (status["sum"]["cash"], status["broker"]["cash"]) == ("97999.96", "97999.96")
        view = gateway_view(tmp_path, (tmp_path / STATUS_FILE).stat().st_mtime + 2)
        assert (view.account, view.money, view.state, view.lag_s) == ("PA3LOOPBACK1", "paper account", "ready", 2.0)
        assert [(line.kind, line.name, line.cash_usd) for line in view.lines] == [
            ("sub-account", "main", 60000.0),
            ("sub-account", "a", 17999.96),
            ("sub-account", "b", 20000.0),
            ("sum", "all together", 97999.96),
            ("broker", "by the broker", 97999.96),
        ]
        assert (view.lines[1].holds, view.detail) == ("4 SPY", "")
        (tmp_path / STATUS_FILE).write_text(json.dumps(status | {"blocked": "trading_blocked"}))
        blocked = gateway_view(tmp_path, (tmp_path / STATUS_FILE).stat().st_mtime)
        assert (blocked.state, blocked.detail) == ("blocked", "the account takes no orders: trading_blocked")
        for away_s in (60, -60):  # -60: it died, and the host's clock was set back
            assert gateway_view(tmp_path, (tmp_path / STATUS_FILE).stat().st_mtime + away_s).state == "silent"
        lines = generate_latest(status_file.registry()).decode().splitlines()
        assert 'rltrader_gateway_cash_usd{desk="gateway",sub_account="a"} 17999.96' in lines
        assert 'rltrader_gateway_sum_cash_usd{desk="gateway"} 97999.96' in lines
        assert 'rltrader_gateway_broker_cash_usd{desk="gateway"} 97999.96' in lines
        assert 'rltrader_gateway_orders_total{desk="gateway",sub_account="a"} 1.0' in lines
        assert 'rltrader_gateway_refusals_total{desk="gateway",status="403"} 1.0' in lines
        assert 'rltrader_gateway_ready{desk="gateway"} 1.0' in lines
        assert 'rltrader_gateway_alarms_total{alarm="gateway_halted",desk="gateway"} 0.0' in lines
        await s.gateway.halt("operator", "news", "anna")
        told = GatewayStatusFile(s.server, tmp_path).registry()
        alarms = [line for line in generate_latest(told).decode().splitlines() if "_alarms_total{" in line]
        assert [line for line in alarms if not line.endswith(" 0.0")] == [
            'rltrader_gateway_alarms_total{alarm="gateway_halted",desk="gateway"} 1.0'
        ]
        assert any(line.startswith('process_start_time_seconds{desk="gateway"} ') for line in lines)  # its restarts
        assert any(line.startswith('rltrader_gateway_commit_seconds_count{desk="gateway"}') for line in lines)


def test_a_file_that_is_missing_or_garbage_is_said_and_raises_nothing(tmp_path: Path) -> None:
    assert gateway_view(tmp_path, 0.0).state == "unreadable"
    for text in ("", "{", '{"accounts": 3}', "[" * 100_000):
        (tmp_path / STATUS_FILE).write_text(text)
        assert gateway_view(tmp_path, 0.0).state == "unreadable"


def test_the_page_of_all_desks_has_the_accounts_behind_gateways(tmp_path: Path) -> None:
    answer = json.loads(bytes(fleet_response([], [tmp_path]).body))
    assert [view["folder"] for view in answer["gateways"]] == [str(tmp_path)]
    assert answer["desks"] == []
