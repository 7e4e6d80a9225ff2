"""A claim goes through a manifest whole, and one that states nothing is refused with the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from strategies.kit.manifest import StatedClaim, decode

RISK: dict[str, Any] = {
    "kind": "risk",
    "proven": True,
    "sentence": "Risk kept.",
    "volatility_target": 0.1,
    "volatility_low": 0.06,
    "volatility_high": 0.14,
    "probability": 0.95,
    "drawdown_max": 0.25,
    "drawdown_probability": 0.95,
    "exposure_mean": 0.6,
    "sharpe_loss_seen": 0.3,
}


def _read(**changes: Any) -> StatedClaim:
    return msgspec.json.decode(json.dumps(RISK | changes), type=StatedClaim)


def test_a_stated_risk_reads_as_written_over_sixty_sessions() -> None:
    claim = _read()
    assert (claim.kind, claim.window_sessions, claim.drawdown_sessions) == ("risk", 60, 252)
    assert json.loads(msgspec.json.encode(claim)) == RISK


def test_the_claim_of_a_lead_needs_no_figure() -> None:
    lead = msgspec.json.decode(b'{"kind": "lead", "proven": false, "sentence": "No lead."}', type=StatedClaim)
    assert lead.volatility_target == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("volatility_target", 0.0),
        ("volatility_target", -0.1),
        ("volatility_low", -0.01),
        ("volatility_low", 0.14),
        ("volatility_high", 0.0),
        ("probability", -0.1),
        ("probability", 1.0),
        ("drawdown_max", 0.0),
        ("drawdown_probability", 1.5),
        ("window_sessions", 1),
    ],
)
def test_a_risk_that_states_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError, match="claim: "):
        _read(**{field: value})


def test_another_kind_and_an_unknown_field_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="kind"):
        _read(kind="hope")
    with pytest.raises(msgspec.ValidationError, match="volatility_hi"):
        _read(volatility_hi=0.2)


def test_a_manifest_without_a_claim_claims_nothing() -> None:
    text = json.dumps(
        {
            "format": 1,
            "strategy": "s",
            "version": "v",
            "contract_hash": "00",
            "policy_sha256": "00",
            "observation_shape": [1],
            "actions": ["HOLD"],
            "golden": {"observations": [], "logits": []},
            "training": {
                "file": "f",
                "file_sha256": "00",
                "feed": "sip",
                "synthetic": True,
                "sessions": 1,
                "first_session": "2024-01-02",
                "last_session": "2024-01-02",
                "splits": {},
            },
            "hyperparameters": {},
            "metrics": {},
            "promoted": False,
        }
    )
    assert decode(text.encode()).claim is None
    with_one = text[:-1] + f', "claim": {json.dumps(RISK)}}}'
    assert decode(with_one.encode()).claim == _read()


def test_a_manifest_that_is_no_text_is_malformed() -> None:
    """One flipped bit in a name: its byte begins no letter of UTF-8."""
    with pytest.raises(msgspec.DecodeError, match="malformed"):
        decode(b'{"strategy": "\xfftoy"}')
