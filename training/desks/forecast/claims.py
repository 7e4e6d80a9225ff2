"""What the reference of `forecast_ensemble` claims. Every figure set against a claim is of this study."""

from __future__ import annotations

from training.evidence.claims import Claim, StrategyClaims
from training.evidence.findings import Findings
from training.evidence.wording import UNKNOWN, number, share
from training.forecast.findings import read
from training.forecast.scores import Skill
from training.study.study import Study

DECISION_MS = "decision_ms"  # of a study's `extra`: milliseconds by the number of symbols


def _accuracy(_: Findings, study: Study) -> str:
    found = read(study.extra)
    if found is None or found.scores is None:
        return UNKNOWN
    own, base = found.scores.after.accuracy, found.scores.after.base_rate
    return (
        f"{share(own.estimate)} ({share(own.low)} to {share(own.high)}); always the commonest class: "
        f"{share(base.estimate)}{_sides(found.skill)}"
    )


def _sides(found: Skill | None) -> str:
    """What of it is a skill of direction."""
    if found is None:
        return ""
    one = found.sides
    return f"; BUY against SELL, AUC {number(one.estimate, 3)} ({number(one.low, 3)} to {number(one.high, 3)})"


def _milliseconds(_: Findings, study: Study) -> str:
    found = study.extra.get(DECISION_MS, {})
    texts = [f"{number(ms, 1)} ms for {rows} symbol{'s' * (rows != '1')}" for rows, ms in found.items()]
    return f"{', '.join(texts)}, on a CPU without indicators" if texts else UNKNOWN


def _parameters(_: Findings, study: Study) -> str:
    found = read(study.extra)
    return UNKNOWN if found is None else f"{found.parameters:,}"


REFERENCE = StrategyClaims(
    claims=(
        Claim("accuracy on three classes", "43 %", _accuracy),
        Claim("a decision", "below 50 ms on a GPU", _milliseconds),
        Claim("parameters of the forecaster", "19,843", _parameters),
    ),
    differs=(
        (
            "The reference does not state how its classes are cut, of which symbols and years its accuracy is, or how "
            "often the commonest class came. Ours is out of sample, over all symbols of the file in the tested years; "
            "beside it stands what always naming the commonest class would have had, without which it says nothing."
        ),
        (
            "Classes are cut by triple barriers here. Other widths or another horizon make the same forecasts look "
            "better or worse, as they change how often HOLD comes."
        ),
        (
            "The time is the median of the whole graph (forecaster and both agents) in torch on one thread, while the "
            "run was at work. The reference names neither its GPU nor what its time covers."
        ),
        "The LSTM of 256 that the reference describes has more than 19,843 parameters by itself.",
    ),
    survivorship=(
        "The default universe is the 20 stocks with a full history from 2010 and the highest dollar volume of 2019: "
        "until the end of 2019 nobody could have known them, and who failed or was bought is missing. Every long "
        "position in them looks better than it was, the baselines' too: what the policy is worth shows against equal "
        "weight and buy and hold of the same symbols, not against SPY."
    ),
)
