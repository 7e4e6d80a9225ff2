"""A rule as a version of the model store: a graph that takes the last numbers of an observation, and its manifest.

Its figures and its page are of the last fold's test sessions; `report.html` has the page's order and words. The whole
report is what `train-and-export` writes where torch is installed, with resampled intervals, costs twice as high and
answers a day late; the graph answers the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import onnx
from onnx import TensorProto, helper

from daemon.core.strategy_rules import DIGEST, desk_keys, rules_digest
from daemon.host.whole_files import write_whole
from daemon.library.run_files import REPORT_PAGE
from daemon.page_kit.plots import Curve, Figure, equity, in_both_widths
from daemon.page_kit.render import render
from strategies.golden import check_golden, contract_hash, golden_observations, own_values
from strategies.kit.contract import Spec
from strategies.kit.manifest import FORMAT, MANIFEST_FILE, POLICY_FILE, Golden, Manifest, Training, answer_name, encode
from training.evidence.statistics import session_returns
from training.evidence.wording import number, percent
from training.export.shelf import check_shelf, put_version, refuse_to_replace
from training.rules.desk import always, own_answer, rule_desk
from training.rules.trials import RuleTask, count_test, folds_of
from training.study.study import SessionFigures, SessionResult, figures

OPSET, IR_VERSION = 20, 9
ALL = 2**31 - 1
TEMPLATE = Path(__file__).with_name("report.html")
OWN = "the rule"


def graph_of(spec: Spec) -> bytes:
    """The ONNX graph: of observations, float32 (batch, *shape), the last numbers, float32 (batch, actions)."""
    count = len(spec.actions)
    limits = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("starts", -count), ("ends", ALL), ("axes", 1))
    ]
    nodes = [
        helper.make_node("Flatten", ["observation"], ["flat"], axis=1),
        helper.make_node("Slice", ["flat", "starts", "ends", "axes"], [answer_name(spec)]),
    ]
    observation = helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", *spec.observation_shape])
    answer = helper.make_tensor_value_info(answer_name(spec), TensorProto.FLOAT, ["batch", count])
    graph = helper.make_graph(nodes, "rule", [observation], [answer], limits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def export_rule(task: RuleTask, feed: str, listen: Callable[[str], None]) -> tuple[Path, str]:
    """Test the rule and write `<store>/<strategy>/<version>/`; its folder and the verdict. No pointer moves.

    Raises:
        ValueError: the golden tape, or a parameter.
        ExportError: a version of the same name was made for another contract, or no desk reads the shelf.
        TapeError, CalendarError, HistoryError, OSError: as reading the bars does.
        LedgerError: the store's ledger, which counts the test, cannot be read or written.
    """
    check_shelf(task.store / task.strategy)
    trading = task.trading()
    desk = rule_desk(task.strategy, task.bars, trading, task.text({}))
    check_golden(desk.strategy)
    days, folds = folds_of(task, listen)
    fold, capital, spec = folds[-1], float(trading.paper.cash_usd), desk.spec
    listen(f"testing on {len(fold.test)} sessions, {fold.test[0]} to {fold.test[-1]}")

    played = {OWN: desk.play(own_answer(spec), fold.test, trading).sessions}
    for place, name in enumerate(spec.actions):
        played[f"always {name}"] = desk.play(always(spec, place), fold.test, trading).sessions
    earned = {name: figures(results, capital, compounds=True) for name, results in played.items()}
    mine = earned[OWN]
    count_test(task, desk, fold.test, mine.session_return / mine.session_deviation if mine.session_deviation else 0.0)
    baselines = {name: result for name, result in earned.items() if name != OWN}
    best = max(baselines, key=lambda name: baselines[name].net_return)
    lead = mine.net_return - baselines[best].net_return
    verdict = (
        f"{percent(mine.net_return)} after costs over {mine.sessions} test sessions"
        f"{' of made-up bars' if desk.synthetic else ''}, Sharpe ratio {number(mine.sharpe_annual)} a year; {best} has "
        f"{percent(baselines[best].net_return)}. A rule's lead of {percent(lead)} is no proof: nothing was resampled; "
        "the report of an environment with torch tests it"
    )
    training = Training(
        file=task.bars.name,
        file_sha256=desk.sha256,
        feed=feed,
        synthetic=bool(desk.synthetic),
        sessions=len(days),
        first_session=days[0],
        last_session=days[-1],
        splits={
            name: (dates[0], dates[-1])
            for name, dates in (("train", fold.train), ("validate", fold.validate), ("test", fold.test))
        },
    )
    golden = golden_observations(desk.strategy)
    answer = own_answer(spec)
    policy = graph_of(spec)
    digest = hashlib.sha256(policy).hexdigest()
    values = hashlib.sha256(spec.config.encode()).hexdigest()[:6] if spec.config else ""
    manifest = Manifest(
        format=FORMAT,
        strategy=spec.name,
        version="-".join(filter(None, (days[-1], "rule", digest[:8], values))),
        contract_hash=contract_hash(desk.strategy),
        policy_sha256=digest,
        observation_shape=spec.observation_shape,
        actions=spec.actions,
        golden=Golden(
            observations=tuple(example.data for example in golden),
            logits=tuple(tuple(answer(example.array())) for example in golden),
        ),
        training=training,
        hyperparameters={"rule": True},
        metrics={"exported": "rule", "verdict": verdict, **asdict(mine)},
        promoted=False,
        note=verdict,
        rules={DIGEST: rules_digest(trading)},
        desk=desk_keys(task.strategy, trading),
        values=own_values(desk.strategy),
        model_config=msgspec.json.decode(spec.config) if spec.config else {},
        model_config_digest=hashlib.sha256(spec.config.encode()).hexdigest() if spec.config else "",
    )
    shelf = task.store / spec.name

    def write(folder: Path) -> str:
        refuse_to_replace(shelf / manifest.version, manifest.contract_hash)
        write_whole(folder / POLICY_FILE, policy)
        write_whole(folder / REPORT_PAGE, rule_page(manifest, played, earned, best, capital).encode())
        write_whole(folder / MANIFEST_FILE, encode(manifest))
        return manifest.version

    return put_version(shelf, write), verdict


def rule_page(
    manifest: Manifest,
    played: Mapping[str, Sequence[SessionResult]],
    earned: Mapping[str, SessionFigures],
    best: str,
    capital_usd: float,
) -> str:
    """The whole document.

    Args:
        manifest: the version's.
        played: the test sessions by player, `OWN` first.
        earned: the figures of each.
        best: the baseline that is drawn beside it.
        capital_usd: at the begin.
    """
    training = manifest.training
    rows = []
    for name, result in earned.items():
        rows.append(
            [
                name,
                percent(result.net_return),
                number(result.sharpe_annual),
                percent(-result.max_drawdown),
                f"{result.trades:,}",
                f"{result.fees_usd:,.2f} USD",
                f"{100 * result.exposure:.1f} %",
            ]
        )
    facts = [
        ("bars", f"{training.file}{', made up' if training.synthetic else ''}, SHA-256 {training.file_sha256[:12]}"),
        *((f"sessions to {name}", f"{first} to {end}") for name, (first, end) in training.splits.items()),
        ("capital", f"{capital_usd:,.0f} USD"),
        ("contract", manifest.contract_hash[:12]),
        *((name, str(value)) for name, value in sorted(manifest.model_config.items())),
    ]
    return render(
        TEMPLATE,
        strategy=manifest.strategy,
        version=manifest.version,
        verdict=manifest.note,
        course=_course({name: played[name] for name in (OWN, best)}, capital_usd),
        players=rows,
        facts=facts,
    )


def _course(played: Mapping[str, Sequence[SessionResult]], capital_usd: float) -> Figure:
    curves = []
    for (name, results), style in zip(played.items(), ("rule", "other"), strict=True):
        points, total = [(0.0, 0.0)], 1.0
        for place, earned in enumerate(session_returns(results, capital_usd).tolist(), 1):
            total *= 1.0 + earned
            points.append((float(place), total - 1.0))
        curves.append(Curve(name, style, points))
    dates = [session.date for session in next(iter(played.values()))]
    marks = [(0.0, dates[0]), (float(len(dates)), dates[-1])]
    return in_both_widths(lambda width: equity(curves, None, marks, width, "Return over the test sessions"))
