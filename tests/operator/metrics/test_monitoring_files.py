"""Rules, Prometheus' configuration and Grafana's dashboard against what the daemon exposes, and against promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from daemon.core.desks.registry import GATES
from daemon.operator.metrics.exposition import GATEWAY_METRICS, METRICS
from rltrader.parsers import commands
from tests.support.paths import REPOSITORY

FOLDER = REPOSITORY / "systemd" / "monitoring"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rltrader.rules.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
EVERY = METRICS | GATEWAY_METRICS
EXPOSED = {
    sample
    for name, metric in EVERY.items()
    for sample in ([f"{name}_{part}" for part in ("bucket", "count", "sum")] if metric.kind == "histogram" else [name])
}
NAME = re.compile(r"\b(?:rltrader|process)_[a-z0-9_]+\b")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Every expression of rules and dashboard, quoted strings left out."""
    texts = [rule["expr"] for rule in ALERTS.values()]
    texts += [target["expr"] for panel in panels() for target in panel["targets"]]
    texts += [variable["definition"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    return (re.sub(r'"[^"]*"', '""', text) for text in texts)


# --- names --------------------------------------------------------------------------------------------------------


def test_every_metric_in_rules_and_dashboard_is_one_that_the_daemon_exposes() -> None:
    names = {name for text in expressions() for name in NAME.findall(text)}
    assert names - EXPOSED == set()


def test_every_metric_is_shown_or_watched_somewhere() -> None:
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for text in expressions() for name in NAME.findall(text)}
    assert set(EVERY) - names == set()


def test_every_label_in_an_expression_is_one_of_its_metric() -> None:
    for text in expressions():
        for name, matchers in re.findall(r"\b((?:rltrader|process)_[a-z0-9_]+)\{([^}]*)\}", text):
            labels = {"desk", "instance", "job", "le", *EVERY[re.sub(r"_bucket$", "", name)].labels}
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= labels, text


def test_the_gates_that_the_denial_storm_leaves_out_are_there() -> None:
    (pattern,) = re.findall(r'gate!~"([^"]+)"', ALERTS["RltraderDenialStorm"]["expr"])
    names = {gate.name for gate in GATES}
    for part in pattern.split("|"):
        assert any(re.fullmatch(part, name) for name in names), part


# --- rules --------------------------------------------------------------------------------------------------------


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert len(ALERTS) == sum(len(group["rules"]) for group in RULES["groups"])
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}


def test_every_command_that_an_alert_names_is_there() -> None:
    programs = ("rltraderctl", "rltrader-gateway")
    texts = [text for rule in ALERTS.values() for text in rule["annotations"].values()]
    named = {typed for text in texts for typed in re.findall(rf"`({'|'.join(programs)}) ([a-z-]+)", text)}
    assert {program for program, _ in named} == set(programs)
    assert named <= {(program, *command.words) for program in programs for command in commands(program)}


def headings(path: Path) -> set[str]:
    """A Markdown file's headings as GitHub's anchors."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in titles}


@pytest.mark.parametrize("name", ALERTS)
def test_each_runbook_is_a_heading_of_a_manual(name: str) -> None:
    path, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")
    assert anchor in headings(REPOSITORY / path)


@needs_promtool
def test_promtool_accepts_configuration_and_rules() -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", FOLDER / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


class Case(NamedTuple):
    """Series under which an alert fires at `minute`, and those under which it does not."""

    minute: int
    fires: dict[str, str]
    quiet: dict[str, str]


def buckets(name: str, each_minute: dict[str, int]) -> dict[str, str]:
    """A histogram's series to which every minute so many observations come, by upper bound."""
    return {f'{name}_bucket{{le="{le}"}}': f"0+{count}x60" for le, count in each_minute.items()}


ON = {"rltrader_session_running": "1x3000", "rltrader_session_open_timestamp_seconds": "0x3000"}
DESK = 'desk="a", instance="i", job="rltrader"'
CASES: dict[str, Case] = {
    "RltraderDown": Case(3, {"up": "1 0x9"}, {"up": "1 0 1x9"}),
    "RltraderAbsent": Case(6, {}, {"up": "0x9"}),
    "RltraderRestarts": Case(
        20, {"process_start_time_seconds": "1x4 2x4 3x4 4x9"}, {"process_start_time_seconds": "1x9 2x20"}
    ),
    "RltraderLoopLag": Case(
        5, {"rltrader_event_loop_lag_max_seconds": "0.6x9"}, {"rltrader_event_loop_lag_max_seconds": "0.6x1 0.4x9"}
    ),
    "RltraderIntakeFills": Case(5, {"rltrader_intake_dropped_total": "0 5x9"}, {"rltrader_intake_depth": "1000x9"}),
    "RltraderFilesRunOut": Case(
        9,
        {"process_open_fds": "900x9", "process_max_fds": "1024x9"},
        {"process_open_fds": "800x9", "process_max_fds": "1024x9"},
    ),
    "RltraderHalted": Case(1, {"rltrader_halted": "0 1"}, {"rltrader_halted": "1 0"}),
    "RltraderPaused": Case(70, {"rltrader_paused": "1x80"}, {"rltrader_paused": "1x59 0x30"}),
    "RltraderDrawdown": Case(1, {"rltrader_drawdown_used_ratio": "0.51x3"}, {"rltrader_drawdown_used_ratio": "0.5x3"}),
    "RltraderDenialStorm": Case(
        20,
        {'rltrader_denials_total{gate="wide_spread"}': "0+3x30"},
        {'rltrader_denials_total{gate="near_close"}': "0+9x30", 'rltrader_denials_total{gate="no_quote"}': "0+1x30"},
    ),
    "RltraderAlarm": Case(
        5, {'rltrader_alarms_total{alarm="blind"}': "0 0 1x9"}, {'rltrader_alarms_total{alarm="blind"}': "1x9"}
    ),
    "RltraderAlarmStorm": Case(
        30, {'rltrader_alarms_total{alarm="blind"}': "0+1x40"}, {'rltrader_alarms_total{alarm="blind"}': "0+1x9 9x40"}
    ),
    "RltraderAlarmCommandFails": Case(
        5,
        {"rltrader_alarm_command_failures_total": "0 1x9"},
        {"rltrader_alarm_command_failures_total": "7x9"},
    ),
    "RltraderNoBars": Case(
        9,
        {**ON, "rltrader_bar_interval_seconds": "60x30", "rltrader_last_bar_timestamp_seconds": "0 60 120 180x30"},
        {**ON, "rltrader_bar_interval_seconds": "60x30", "rltrader_last_bar_timestamp_seconds": "0+60x30"},
    ),
    "RltraderBarsLate": Case(
        20,
        buckets("rltrader_bar_lag_seconds", {"20": 0, "60": 1, "+Inf": 1}),
        buckets("rltrader_bar_lag_seconds", {"5": 2, "60": 3, "+Inf": 3}),
    ),
    "RltraderBarsRejected": Case(
        30, {"rltrader_bars_rejected_total": "0+1x40"}, {"rltrader_bars_rejected_total": "0+1x5 5x40"}
    ),
    "RltraderNotReconciled": Case(
        6,
        {**ON, "rltrader_reconciled": "0x9"},
        {"rltrader_session_running": "0x9", "rltrader_reconciled": "0x9"},
    ),
    "RltraderBrokerSilent": Case(
        9,
        {"rltrader_last_broker_report_timestamp_seconds": "0 60x9"},
        {"rltrader_last_broker_report_timestamp_seconds": "0+60x9"},
    ),
    "RltraderReconnects": Case(
        15,
        {'rltrader_reconnects_total{stream="market"}': "0+1x30"},
        {'rltrader_reconnects_total{stream="market"}': "0 1 2 3x30"},
    ),
    "RltraderDecisionSlow": Case(
        40,
        buckets("rltrader_decision_seconds", {"0.1": 9, "0.25": 10, "+Inf": 10}),
        buckets("rltrader_decision_seconds", {"0.1": 10, "0.25": 10, "+Inf": 10}),
    ),
    "RltraderNoModel": Case(
        9,
        {'rltrader_build_info{mode="live"}': "1x9"},
        {'rltrader_build_info{mode="live"}': "1x9", 'rltrader_model_info{promoted="true", version="v"}': "1x9"},
    ),
    "RltraderModelNotPromoted": Case(
        1,
        {'rltrader_build_info{mode="live"}': "1x9", 'rltrader_model_info{promoted="false", version="v"}': "1x9"},
        {'rltrader_build_info{mode="paper"}': "1x9", 'rltrader_model_info{promoted="false", version="v"}': "1x9"},
    ),
    "RltraderDrift": Case(
        1,
        {"rltrader_drift_beyond": "1x3"},
        {"rltrader_drift_beyond": "0x3", "rltrader_drift_feature_psi": "0.4x3"},  # by chance, of few decisions
    ),
    "RltraderTrainerSilent": Case(
        40,
        {"rltrader_trainer_sign_timestamp_seconds": "0 60x60"},
        {"rltrader_trainer_sign_timestamp_seconds": "0x25 1500x60"},  # a card took long
    ),
    "RltraderTrainerStands": Case(
        200,
        {"rltrader_session_running": "1x300", "rltrader_trainer_row": "700x300"},
        {"rltrader_session_running": "1x300", "rltrader_trainer_row": "700x59 760x59 820x59 880x59 940x59"},  # of hours
    ),
    "RltraderClaimBroken": Case(1, {"rltrader_claim_broken": "0 1"}, {"rltrader_claim_broken": "0x3"}),
    "RltraderWalLarge": Case(
        6, {"rltrader_journal_wal_bytes": "268435457x9"}, {"rltrader_journal_wal_bytes": "268435456x9"}
    ),
    "RltraderDiskFull": Case(2, {"rltrader_disk_free_bytes": "1e9x9"}, {"rltrader_disk_free_bytes": "1.1e9x9"}),
    "RltraderDiskFills": Case(
        100, {"rltrader_disk_free_bytes": "2e10-5e6x120"}, {"rltrader_disk_free_bytes": "2e10-1e6x120"}
    ),
    "RltraderJournalGrows": Case(20, {"rltrader_journal_bytes": "0+3e8x30"}, {"rltrader_journal_bytes": "0+1e7x30"}),
    "RltraderGatewayHalted": Case(1, {"rltrader_gateway_halted": "0 1"}, {"rltrader_gateway_halted": "1 0"}),
    "RltraderGatewayAlarm": Case(
        5,
        {'rltrader_gateway_alarms_total{alarm="gateway_desk_short"}': "0 0 1x9"},
        {'rltrader_gateway_alarms_total{alarm="gateway_desk_short"}': "1x9", "process_start_time_seconds": "-900x9"},
    ),
    "RltraderGatewayAway": Case(4, {"rltrader_gateway_ready": "1 0x9"}, {"rltrader_gateway_ready": "0x1 1x9"}),
    "RltraderGatewayDiffers": Case(
        3,
        {"rltrader_gateway_doubts": "0 2x9"},
        {"rltrader_gateway_doubts": "0x9", "rltrader_gateway_differences": "2x9"},
    ),
    "RltraderGatewayReportOld": Case(
        9,
        {"rltrader_gateway_last_broker_report_timestamp_seconds": "0 60x9"},
        {"rltrader_gateway_last_broker_report_timestamp_seconds": "0+60x9"},
    ),
    "RltraderGatewayBudget": Case(
        14,
        {'rltrader_gateway_budget_left{queue="orders"}': "120 61x20"},
        {'rltrader_gateway_budget_left{queue="orders"}': "61 61 61 120 61 61 61 120 61 61 61 120 61x9"},
    ),
    "RltraderGatewayCommitSlow": Case(
        40,
        buckets("rltrader_gateway_commit_seconds", {"0.5": 9, "1.0": 10, "+Inf": 10}),
        buckets("rltrader_gateway_commit_seconds", {"0.5": 10, "1.0": 10, "+Inf": 10}),
    ),
    "RltraderMqttDrops": Case(9, {"rltrader_mqtt_dropped_total": "0+1x20"}, {"rltrader_mqtt_dropped_total": "9x20"}),
}


def series(values: dict[str, str]) -> list[dict[str, str]]:
    """promtool's input: each series with the labels that a desk's target has."""
    samples = []
    for key, points in values.items():
        name, _, labels = key.rstrip("}").partition("{")
        samples.append({"series": f"{name}{{{', '.join(filter(None, (labels, DESK)))}}}", "values": points})
    return samples


def scenario(alert: str, values: dict[str, str], minute: int, *, firing: bool) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": 1}] if firing else []
    return {
        "interval": "1m",
        "input_series": series(values),
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": f"{minute}m",
                "exp_samples": samples,
            }
        ],
    }


class Meeting(NamedTuple):
    """What happened, an alert, and whether it fires at `minute`."""

    what: str
    alert: str
    minute: int
    series: dict[str, str]
    fires: bool


def bars(interval_s: int, last_bar: str, open_s: str = "0x300") -> dict[str, str]:
    """A running session's bars: the end of the newest one each minute."""
    return {
        **ON,
        "rltrader_bar_interval_seconds": f"{interval_s}x300",
        "rltrader_last_bar_timestamp_seconds": last_bar,
        "rltrader_session_open_timestamp_seconds": open_s,
    }


MEETINGS = [
    Meeting("five-minute bars, the first is not due", "RltraderNoBars", 4, bars(300, "-63000x30"), fires=False),
    Meeting(
        "five-minute bars come", "RltraderNoBars", 29, bars(300, "-63000x4 300x4 600x4 900x4 1200x4 1500x9"), False
    ),
    Meeting("five-minute bars, and none came", "RltraderNoBars", 18, bars(300, "-63000x30"), fires=True),
    Meeting("hours, and none came", "RltraderNoBars", 190, bars(3600, "-63000x300"), fires=True),
    Meeting("minutes, and none came", "RltraderNoBars", 6, bars(60, "-63000x30"), fires=True),
    Meeting("minutes, and none was ever known", "RltraderNoBars", 6, bars(60, "_x30"), fires=True),
    Meeting("days", "RltraderNoBars", 290, bars(86400, "-86400x300"), fires=False),
    Meeting(
        "an alarm of the start, in a desk's first minute",
        "RltraderAlarm",
        5,
        {'rltrader_alarms_total{alarm="no_ballast"}': "_ _ 1x9", "process_start_time_seconds": "_ _ 100x9"},
        fires=True,
    ),
    Meeting(
        "the same alarm at each of two starts",
        "RltraderAlarm",
        40,
        {
            'rltrader_alarms_total{alarm="no_ballast"}': "1x30 _ _ 1x20",
            "process_start_time_seconds": "0x30 _ _ 1950x20",
        },
        fires=True,
    ),
    Meeting(
        "an alarm of a start long ago",
        "RltraderAlarm",
        40,
        {'rltrader_alarms_total{alarm="no_ballast"}': "1x60", "process_start_time_seconds": "0x60"},
        fires=False,
    ),
]


@needs_promtool
@pytest.mark.parametrize("meeting", MEETINGS, ids=lambda meeting: meeting.what)
def test_an_alert_fires_in_what_happens_and_in_nothing_else(meeting: Meeting, tmp_path: Path) -> None:
    judged([scenario(meeting.alert, meeting.series, meeting.minute, firing=meeting.fires)], tmp_path)


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@needs_promtool
def test_every_alert_fires_when_it_should_and_is_quiet_when_it_should(tmp_path: Path) -> None:
    tests = [scenario(name, case.fires, case.minute, firing=True) for name, case in CASES.items()]
    tests += [scenario(name, case.quiet, case.minute, firing=False) for name, case in CASES.items()]
    judged(tests, tmp_path)


def judged(tests: list[dict[str, Any]], folder: Path) -> None:
    """promtool finds each as it is expected."""
    path, rules = folder / "test.yml", [str(FOLDER / "rltrader.rules.yml")]
    path.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": tests}))
    result = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


# --- the dashboard ------------------------------------------------------------------------------------------------


@needs_promtool
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    texts = [target["expr"] for panel in panels() for target in panel["targets"]]
    texts = [text.replace("$desk", ".*").replace("$__rate_interval", "1m") for text in texts]
    assert not any("$" in text for text in texts)
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    result = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dashboard_can_be_imported_anywhere_and_shows_any_desk() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "desk"]
    for panel in panels():
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            of_all = target["expr"].startswith("up{") or "rltrader_gateway_" in target["expr"]
            assert 'desk=~"$desk"' in target["expr"] or of_all, target["expr"]


def test_the_dashboard_s_rows_are_its_subjects_and_nothing_overlaps() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Trading", "Latency", "Feed and broker", "Process", "Gateway"]
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        panel_cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not panel_cells & cells, panel["title"]
        assert max(x for x, _ in panel_cells) < 24
        cells |= panel_cells
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)


def test_each_panel_has_a_unit_and_thresholds() -> None:
    for panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
