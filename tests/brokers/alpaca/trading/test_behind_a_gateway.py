"""What a desk behind a gateway makes of the gateway's statement and of its denials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon.brokers.alpaca.assemble import strange
from daemon.config.tables import DeskSettings

PAPER = {"account": "paper", "real_time": True}
LIVE = {"account": "live", "real_time": True}
SIMULATED = {"sim_start": "2024-07-01T09:00:00-04:00", "anchor_unix_s": 1.0}


@pytest.mark.parametrize(
    ("desk", "clock", "stated", "words"),
    [
        ("paper", {}, PAPER, ""),
        ("live", {}, LIVE, ""),
        ("paper", {}, LIVE, 'the gateway serves a live account, desk.account is "paper"'),
        ("live", {}, PAPER, 'the gateway serves a paper account, desk.account is "live"'),
        ("paper", SIMULATED, PAPER, "the gateway's account is in real time, [clock] is not: take its keys out"),
        ("paper", SIMULATED, PAPER | {"real_time": False}, ""),
        ("paper", {}, None, ""),  # no gateway
        ("paper", {}, {}, 'the gateway serves a ? account, desk.account is "paper"'),
    ],
)
def test_the_statement_must_be_what_is_configured(
    desk: str, clock: dict[str, Any], stated: dict[str, object] | None, words: str
) -> None:
    settings = DeskSettings.model_validate({"desk": {"account": desk, "account_number": "1-a"}, "clock": clock})
    assert strange(settings, {"status": "ACTIVE", "gateway": stated}) == words


@pytest.mark.parametrize(
    ("prefix", "stated", "fits"),
    [
        ("guard", {"guard_prefix": "guard"}, True),
        ("guard", {"guard_prefix": "watch"}, False),
        ("guard", {"guard_prefix": ""}, False),
        ("guard", {}, False),
        ("", {"guard_prefix": "guard"}, True),  # no guard watches this desk
    ],
)
def test_a_guard_whose_stops_the_gateway_would_take_for_anothers_keeps_new_risk_away(
    prefix: str, stated: dict[str, object], fits: bool, tmp_path: Path
) -> None:
    guard = {"prefix": prefix, "drop_dir": str(tmp_path)} if prefix else {}
    settings = DeskSettings.model_validate({"desk": {"account_number": "1-a"}, "guard": guard})
    words = strange(settings, {"status": "ACTIVE", "gateway": PAPER | stated})
    guard_prefix = stated.get("guard_prefix", "")
    beginning = f'guard.prefix is "guard", and guard_prefix of the gateway\'s sub-account is "{guard_prefix}"'
    assert words == "" if fits else words.startswith(beginning)
    assert strange(settings, {"status": "ACTIVE"}) == ""  # no gateway
