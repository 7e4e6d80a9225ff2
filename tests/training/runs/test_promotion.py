"""A version is promoted when its own report passes every criterion, and stays exactly as it was otherwise."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from strategies.kit.manifest import FORMAT, LEAD, RISK, Golden, Manifest, decode, encode
from tests.support.training.studies import example_study
from training.evidence.criteria import CRITERIA, RISK_CRITERIA, claim_of, judge
from training.evidence.findings import Findings, PlayerLine, RecordedRun
from training.evidence.findings import encode as encode_findings
from training.evidence.risk import RiskSeries, RiskStatement, kept_risk
from training.evidence.risk_power import TARGET, simulated
from training.report.find import find
from training.runs.ledger import RISK_CLAIM, Ledger, LedgerLine, ledger_path, utc_now
from training.runs.promotion import Judgement, PromotionError, promote

POLICY = b"weights"
DIGEST = hashlib.sha256(POLICY).hexdigest()
UNKNOWN = float("nan")
RULES = "cc" * 32
SUMMARY = "recorded.json"
RECORDED = RecordedRun(sessions=60, fills=100, modelled=10, profit_usd=0.01)


@pytest.fixture(scope="module")
def good() -> Findings:
    """A policy with an edge that no market gives: 1.6 % of the capital a session."""
    findings = find(example_study(edge_usd=160.0))
    assert findings.trades_options
    with_run = msgspec.structs.replace(findings, recorded_run=RECORDED)
    return msgspec.structs.replace(with_run, criteria=judge(with_run))


def _version(store: Path, findings: Findings, **changes: Any) -> Path:
    """A folder as the export leaves it, policy, manifest and report, beside the ledger with its one trial."""
    folder = store / "option_scalper" / "2024-10-31-0badcafe"
    folder.mkdir(parents=True)
    Ledger(ledger_path(store, "option_scalper")).append(_trial(findings, "own"))
    study = example_study(folds=1, seeds=1, rewards=("potential",))
    manifest = Manifest(
        format=FORMAT,
        strategy="option_scalper",
        version=folder.name,
        contract_hash="11" * 32,
        policy_sha256=DIGEST,
        observation_shape=(20, 23),
        actions=("HOLD",),
        golden=Golden(observations=(b"\x00\x01",), logits=((0.5,),)),
        training=study.data,
        hyperparameters={"steps": 1},
        metrics={},
        promoted=False,
        rules={"digest": RULES},
    )
    bound = msgspec.structs.replace(
        findings, **{"policy_sha256": DIGEST, "counted_trials": 1, "counted_risks": 0, **changes}
    )
    report = encode_findings(bound)
    files = {"report.json": hashlib.sha256(report).hexdigest()}
    (folder / "policy.onnx").write_bytes(POLICY)
    (folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
    (folder / "report.json").write_bytes(report)
    if findings.recorded_run is not None:
        (store / SUMMARY).write_bytes(_summary(findings.recorded_run))
    return folder


def _trial(findings: Findings, study: str, years: int = 0) -> LedgerLine:
    """A trial on the test sessions, or on those so many years later."""
    begin, end = (f"{int(date[:4]) + years}{date[4:]}" for date in findings.folds[0].test[:2])
    return LedgerLine(
        kind="trial", utc=utc_now(), strategy="option_scalper", data_sha256="11" * 32, first=begin, last=end,
        study=study, sharpe=0.1, settings_sha256="22" * 32,
    )  # fmt: skip


def _summary(run: RecordedRun, **changes: Any) -> bytes:
    """What `rltraderd --dry-run --option-quotes` prints for this run, and more that does not count."""
    quotes = {
        "file": "quotes.parquet",
        "synthetic": changes.pop("quotes", ""),
        "sessions_quoted": run.sessions,
        "first_date": changes.pop("first_date", "2023-07-18"),  # the day after the last that chose it
        "fills_recorded": run.fills - run.modelled,
        "fills_modelled": run.modelled,
    }
    whole = {
        "strategy": "option_scalper",
        "model": "2024-10-31-0badcafe",
        "mode": "recorded",
        "synthetic": False,
        "stopped_by": "",
        "realized_pnl_usd": run.profit_usd,
        "rules": RULES,
        "option_quotes": quotes,
    }
    return json.dumps(whole | changes).encode()


def _promote(folder: Path) -> Judgement:
    """Promote with the summary next to the folder, where there is one."""
    summary = folder.parents[1] / SUMMARY
    return promote(folder, summary if summary.exists() else None)


def _refused(folder: Path) -> str:
    """The text of the refusal, which leaves every file as it was."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(PromotionError) as refusal:
        _promote(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return str(refusal.value)


def test_a_version_whose_report_passes_is_promoted_and_nothing_else_of_it_changes(
    good: Findings, tmp_path: Path
) -> None:
    folder = _version(tmp_path, good)
    before = decode((folder / "manifest.json").read_bytes())
    judgement = _promote(folder)
    after = decode((folder / "manifest.json").read_bytes())
    assert after == msgspec.structs.replace(before, promoted=True)
    assert judgement.version == before.version
    assert len(judgement.criteria) == len(CRITERIA)
    assert all(criterion.passes for criterion in judgement.criteria)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "policy.onnx", "report.json"]


@pytest.mark.parametrize(("years", "passes"), [(0, False), (-20, True), (1, False)])
def test_trials_on_its_sessions_or_later_ones_count_before_it_is_promoted(
    good: Findings, tmp_path: Path, years: int, passes: bool
) -> None:
    """Who looks at later sessions and then tests earlier ones chooses among both."""
    folder = _version(tmp_path, good, counted_trials=2)
    ledger = Ledger(ledger_path(tmp_path, "option_scalper"))
    ledger.append(_trial(good, "own"), _trial(good, "other"), _trial(good, "later", years))
    if passes:
        _promote(folder)
    else:
        expected = "has 3 trials and 0 stated risks on the test sessions or later ones, report.json counts 2 trials"
        assert expected in _refused(folder)


def test_a_risk_that_was_stated_otherwise_after_the_report_counts_before_it_is_promoted(
    good: Findings, tmp_path: Path
) -> None:
    folder, earlier = _version(tmp_path, good), _version(tmp_path / "earlier", good, counted_risks=None)
    note = f"{RISK_CLAIM} volatility 0.1"
    stated = msgspec.structs.replace(_trial(good, "own"), kind="opening", sharpe=None, settings_sha256="", note=note)
    for store in (tmp_path, tmp_path / "earlier"):
        Ledger(ledger_path(store, "option_scalper")).append(stated)
    assert "has 1 trials and 1 stated risks" in _refused(folder)
    _promote(earlier)  # a report of an earlier version counts no risks, its own neither


def test_a_version_in_a_store_without_the_ledger_of_its_training_is_not_promoted(
    good: Findings, tmp_path: Path
) -> None:
    """The luckiest of many trials, copied into a store that has none of them."""
    folder = _version(tmp_path / "trained", good, counted_trials=1)
    ledger = ledger_path(tmp_path / "trained", "option_scalper")
    Ledger(ledger).append(*(_trial(good, f"try {place}") for place in range(50)))
    assert "has 51 trials" in _refused(folder)
    copy = tmp_path / "other" / "option_scalper" / folder.name
    shutil.copytree(folder, copy)
    (tmp_path / "other" / SUMMARY).write_bytes((tmp_path / "trained" / SUMMARY).read_bytes())
    assert "has 0 trials" in _refused(copy)
    assert "it is not the ledger of its training" in _refused(copy)


def test_a_version_that_another_command_changes_while_it_is_judged_is_not_promoted(
    good: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _version(tmp_path, good)
    path = folder / "manifest.json"
    other = encode(msgspec.structs.replace(decode(path.read_bytes()), note="exported again, from other bars"))

    def judged_while_it_is_exported_again(*arguments: Any) -> Any:
        path.write_bytes(other)
        return judge(*arguments)

    monkeypatch.setattr("training.runs.promotion.judge", judged_while_it_is_exported_again)
    with pytest.raises(PromotionError, match="was changed by another command meanwhile: give the same command again"):
        _promote(folder)
    assert path.read_bytes() == other


def test_a_report_that_counts_no_trials_promotes_nothing(good: Findings, tmp_path: Path) -> None:
    """Those of earlier versions do not say how many there were."""
    assert "report.json counts 0 trials" in _refused(_version(tmp_path, good, counted_trials=0))


def test_promoting_again_changes_nothing(good: Findings, tmp_path: Path) -> None:
    folder = _version(tmp_path, good)
    first = _promote(folder)
    content = (folder / "manifest.json").read_bytes()
    assert _promote(folder) == first
    assert (folder / "manifest.json").read_bytes() == content


def test_a_refusal_has_one_line_for_each_failed_criterion(tmp_path: Path) -> None:
    weak = find(example_study(folds=2, seeds=2))
    lines = _refused(_version(tmp_path, weak)).splitlines()
    failed = [criterion.name for criterion in judge(weak) if not criterion.passes]
    assert {"seeds", "length"} <= {*failed}
    assert lines[0].startswith("2024-10-31-0badcafe is not promoted")
    assert [line.partition(":")[0] for line in lines[1:]] == failed
    assert "seeds: at least 10 seeds in every fold; found 2" in lines


def _figures(line: PlayerLine, **changes: Any) -> PlayerLine:
    return msgspec.structs.replace(line, figures=msgspec.structs.replace(line.figures, **changes))


def _changes(good: Findings, part: str, **changes: Any) -> dict[str, Any]:
    return {part: msgspec.structs.replace(getattr(good, part), **changes)}


def _with_scenario(good: Findings, name: str, net_return: float) -> dict[str, Any]:
    return {
        "scenarios": tuple(
            _figures(line, net_return=net_return) if line.name == name else line for line in good.scenarios
        )
    }


def _at(good: Findings, criterion: str, edge: bool) -> dict[str, Any]:
    """Findings just on the passing side of a criterion's threshold (`edge`), or just on the other."""
    best = max(line.figures.net_return for line in good.baselines)
    p = good.policy
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "data": lambda: {"source": "Alpaca /v2/stocks/bars" if edge else ""},
        "recorded options": lambda: {
            "recorded_run": msgspec.structs.replace(RECORDED, sessions=60 if edge else 59),
        },
        "weights": lambda: {"refit": not edge},
        "seeds": lambda: {"seeds": 10 if edge else 9},
        "length": lambda: {"policy": _figures(p, sessions=60 if edge else 59)},
        "trades": lambda: {"policy": _figures(p, trades=30 if edge else 29)},
        "profit": lambda: {
            "policy": _figures(p, net_return=1e-6 if edge else 0.0),
            "baselines": tuple(_figures(line, net_return=-1.0) for line in good.baselines),
        },
        "baselines": lambda: {"policy": _figures(p, net_return=best + 1e-9 if edge else best)},
        "lead": lambda: _changes(good, "lead", low=1e-9 if edge else 0.0),
        "deflated lead": lambda: _changes(good, "lead", deflated=0.95 if edge else 0.9499),
        "overfitting": lambda: _changes(good, "lead", loss=0.2 if edge else 0.2001),
        "drawdown": lambda: {
            "policy": _figures(p, max_drawdown=0.25 if edge else 0.2501),
            "baselines": tuple(_figures(line, max_drawdown=0.2) for line in good.baselines),
        },
        "moved": lambda: _changes(good, "learnt", kl=0.01 if edge else 0.0099),
        "luck": lambda: {"random_p": 0.05 if edge else 0.0501},
        "costs": lambda: _with_scenario(good, "costs x 2", 1e-9 if edge else 0.0),
        "delay": lambda: _with_scenario(good, "one bar late", 1e-9 if edge else -0.01),
    }
    return sides[criterion]()


@pytest.mark.parametrize("name", [criterion.name for criterion in CRITERIA])
def test_each_criterion_alone_stops_a_promotion_and_its_threshold_is_where_the_rule_says(
    good: Findings, name: str, tmp_path: Path
) -> None:
    inside = msgspec.structs.replace(good, **_at(good, name, edge=True))
    outside = msgspec.structs.replace(good, **_at(good, name, edge=False))
    assert [judgement.name for judgement in judge(inside) if not judgement.passes] == []
    assert [judgement.name for judgement in judge(outside) if not judgement.passes] == [name]
    assert name in _refused(_version(tmp_path, outside))


def test_bars_are_recorded_made_up_or_of_a_file_that_names_no_source(good: Findings) -> None:
    def source_of(**changes: Any) -> tuple[str, bool]:
        data = next(
            criterion for criterion in judge(msgspec.structs.replace(good, **changes)) if criterion.name == "data"
        )
        return data.found, data.passes

    assert source_of(source="Alpaca") == ("recorded", True)
    assert source_of(source="") == ("of a file that names no source", False)
    assert source_of(source="a walk", synthetic=True) == ("made up", False)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deflated lead", lambda f: _changes(f, "lead", deflated=UNKNOWN)),
        ("overfitting", lambda f: _changes(f, "lead", loss=None)),
        ("luck", lambda _: {"random_p": None}),
        ("moved", lambda _: {"learnt": None}),
        ("baselines", lambda _: {"baselines": ()}),
        ("lead", lambda _: {"lead": None}),
        ("lead", lambda f: _changes(f, "lead", low=None)),  # a bound of so few sessions says nothing
        ("deflated lead", lambda _: {"imported": True}),
        ("delay", lambda f: {"scenarios": f.scenarios[:1]}),
        ("recorded options", lambda _: {"trades_options": None}),  # a report of an earlier version
    ],
)
def test_what_is_not_known_fails(good: Findings, name: str, changes: Any) -> None:
    criteria = {one.name: one for one in judge(msgspec.structs.replace(good, **changes(good)))}
    assert not criteria[name].passes
    assert criteria[name].found == "not known"


@pytest.mark.parametrize(
    ("run", "passes"),
    [
        (None, False),
        (RECORDED, True),
        (msgspec.structs.replace(RECORDED, modelled=11), False),
        (msgspec.structs.replace(RECORDED, profit_usd=0.0), False),
        (msgspec.structs.replace(RECORDED, fills=0, modelled=0), False),
    ],
)
def test_made_up_option_prices_alone_promote_no_policy_that_trades_options(
    good: Findings, run: RecordedRun | None, passes: bool
) -> None:
    findings = msgspec.structs.replace(good, recorded_run=run)
    assert {one.name: one.passes for one in judge(findings)}["recorded options"] is passes
    shares = msgspec.structs.replace(findings, trades_options=False)
    assert {one.name: one.passes for one in judge(shares)}["recorded options"]


def test_the_run_on_recorded_quotes_counts_from_its_summary_alone(good: Findings, tmp_path: Path) -> None:
    folder = _version(tmp_path, good)
    (tmp_path / SUMMARY).unlink()
    assert "recorded options: " in _refused(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "2024-10-31-other"}, "model '2024-10-31-other', expected '2024-10-31-0badcafe'"),
        ({"strategy": "other"}, "strategy 'other'"),
        ({"synthetic": True}, "made-up bars True"),
        ({"quotes": "a generator"}, "made-up quotes 'a generator'"),
        ({"stopped_by": "SIGTERM"}, "stopped by 'SIGTERM'"),
        ({"rules": "ee" * 32}, f"digest of sizes, limits, gates and costs '{'ee' * 32}', expected '{'cc' * 32}'"),
        ({"option_quotes": None}, "without recorded option quotes"),
        (
            {"first_date": "2023-07-17"},
            "begin on 2023-07-17, and the version was trained and chosen on sessions up to 2023-07-17",
        ),
        ({"first_date": ""}, "quotes begin on no day"),
        ({"realized_pnl_usd": "much"}, "is no summary of a run"),
    ],
)
def test_a_summary_of_another_run_is_refused(
    good: Findings, changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    folder = _version(tmp_path, good)
    (tmp_path / SUMMARY).write_bytes(_summary(RECORDED, **changes))
    assert problem in _refused(folder)


def test_what_the_report_says_of_itself_counts_for_nothing(good: Findings, tmp_path: Path) -> None:
    """The criteria in the file all say passes; the figure under one of them does not."""
    assert all(criterion.passes for criterion in good.criteria)
    text = _refused(_version(tmp_path, good, random_p=0.3))
    assert text.splitlines()[1:] == ["luck: at most 5 % of random traders did as well; found 30.0 % of them"]


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_sha256": "22" * 32},
        {"policy_sha256": None},
        {"data_sha256": "cd" * 32},
        {"strategy": "daily_rebalancer"},
        {"passive": True},
    ],
)
def test_a_report_of_another_policy_or_other_bars_is_refused(
    good: Findings, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert "not of one training run" in _refused(_version(tmp_path, good, **changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"files": {}}, "manifest.json names none"),  # nothing vouches for the report
        ({"version": "2024-10-31-other"}, "its folder is called 2024-10-31-0badcafe"),
        ({"metrics": {"exported": "passive"}}, "exported is what was learned, manifest.json names the passive policy"),
    ],
)
def test_a_report_that_the_manifest_does_not_vouch_for_is_refused(
    good: Findings, changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    folder = _version(tmp_path, good)
    manifest = decode((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, **changes)))
    assert complaint in _refused(folder)


def test_a_report_that_was_edited_after_the_export_is_refused(good: Findings, tmp_path: Path) -> None:
    folder = _version(tmp_path, good)
    (folder / "report.json").write_bytes((folder / "report.json").read_bytes() + b" ")
    assert "report.json has digest" in _refused(folder)


def test_a_policy_that_was_exchanged_is_refused(good: Findings, tmp_path: Path) -> None:
    folder = _version(tmp_path, good)
    (folder / "policy.onnx").write_bytes(b"other weights")
    assert f"policy.onnx has digest {hashlib.sha256(b'other weights').hexdigest()}" in _refused(folder)


@pytest.mark.parametrize("name", ["policy.onnx", "manifest.json", "report.json"])
def test_a_version_without_one_of_its_files_is_refused_by_the_name_of_the_file(
    good: Findings, name: str, tmp_path: Path
) -> None:
    folder = _version(tmp_path, good)
    (folder / name).unlink()
    assert name in _refused(folder)


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
def test_a_damaged_file_is_refused(good: Findings, name: str, tmp_path: Path) -> None:
    folder = _version(tmp_path, good)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    assert f"{name} cannot be read" in _refused(folder)


def test_a_report_of_another_format_is_refused(good: Findings, tmp_path: Path) -> None:
    folder = _version(tmp_path, good)
    content = json.loads((folder / "report.json").read_bytes())
    (folder / "report.json").write_text(json.dumps({**content, "format": 99}))
    assert "has format 99, expected 1" in _refused(folder)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"report.html": "0" * 64}, "report.html has digest"),
        ({"gone.html": "0" * 64}, "gone.html cannot be read"),
        ({"../report.html": "0" * 64}, "expected plain names"),
    ],
)
def test_a_version_with_a_file_that_the_manifest_does_not_vouch_for_is_not_promoted(
    good: Findings, tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    folder = _version(tmp_path, good)
    (folder / "report.html").write_bytes(b"page")
    manifest = decode((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, files=files)))
    assert complaint in _refused(folder)


# --- by a stated risk ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def risk_findings() -> Findings:
    """A passive policy without any lead, whose risk overlay keeps the stated risk in one simulated market."""
    market, policy, exposure, _ = (rows[0] for rows in simulated(1, 2016, np.random.default_rng(1), clustered=True))
    statement = RiskStatement(TARGET, 0.25)
    series = RiskSeries(policy, exposure, market, np.ones(len(market)), policy, 0.01)
    findings = find(example_study(edge_usd=-10.0, seeds=1))
    with_risk = msgspec.structs.replace(findings, passive=True, risk=kept_risk(series, statement))
    return msgspec.structs.replace(with_risk, claim=claim_of(with_risk, RISK, statement))


def _claiming(store: Path, findings: Findings, **changes: Any) -> Path:
    """The version of a passive policy whose manifest makes the report's claim."""
    folder = _version(store, findings)
    manifest = decode((folder / "manifest.json").read_bytes())
    whole = {"metrics": {"exported": "passive"}, "claim": findings.claim, **changes}
    (folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, **whole)))
    return folder


def test_a_passive_policy_without_a_lead_is_promoted_by_its_proven_risk(
    risk_findings: Findings, tmp_path: Path
) -> None:
    folder = _claiming(tmp_path, risk_findings)
    judgement = promote(folder)
    assert judgement.claim == RISK
    assert [one.name for one in judgement.criteria] == [one.name for one in RISK_CRITERIA]
    assert decode((folder / "manifest.json").read_bytes()).promoted


def test_a_claim_that_the_version_does_not_make_is_not_judged(
    risk_findings: Findings, good: Findings, tmp_path: Path
) -> None:
    folder = _claiming(tmp_path, risk_findings)
    with pytest.raises(PromotionError, match="claims a risk, expected a lead"):
        promote(folder, claim=LEAD)
    (tmp_path / "other").mkdir()
    with pytest.raises(PromotionError, match="claims nothing, expected a risk"):
        promote(_version(tmp_path / "other", good), claim=RISK)


def test_a_claim_that_was_edited_in_the_manifest_promotes_nothing(risk_findings: Findings, tmp_path: Path) -> None:
    assert risk_findings.claim is not None
    wider = msgspec.structs.replace(risk_findings.claim, volatility_high=0.5)
    assert "make other claims" in _refused(_claiming(tmp_path, risk_findings, claim=wider))


def test_a_risk_whose_rules_are_not_known_promotes_nothing(risk_findings: Findings, tmp_path: Path) -> None:
    assert "names no digest of the rules" in _refused(_claiming(tmp_path, risk_findings, rules={}))


def test_a_risk_that_its_figures_do_not_keep_promotes_nothing_whatever_is_claimed(
    risk_findings: Findings, tmp_path: Path
) -> None:
    assert risk_findings.risk is not None
    figures = msgspec.structs.replace(risk_findings.risk, sharpe_change_high=-0.01, drawdown_kept=0.9)
    refusal = _refused(_claiming(tmp_path, msgspec.structs.replace(risk_findings, risk=figures)))
    assert [line.partition(":")[0] for line in refusal.splitlines()[1:]] == ["drawdown", "sharpe"]
