"""What a desk behind a gateway makes of the gateway's statement and of its denials."""

from __future__ import annotations

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
