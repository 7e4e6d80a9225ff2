"""A live daemon whose answers the trainer's side serves over a real Redis, from its configuration to its journal."""

from __future__ import annotations

import contextlib
from pathlib import Path

from daemon.experience.experience import stream_name
from strategies.registry import strategy
from tests.support.desks.desk_run import verified
from tests.support.desks.online_day import SYMBOLS, online_stage
from tests.support.desks.stage import KEYS, Table
from tests.support.models.online_models import NAME, VERSION, put_momentum
from tests.support.outside.stream import Logged, redis_anywhere
from training.online.served import AnswerService

RATE = 2.0  # ten seconds of the desk's clock are five of this machine; a minute without an answer is asked again


def test_a_live_desk_acts_on_served_answers_and_its_journal_replays(tmp_path: Path) -> None:
    models = put_momentum(tmp_path / "store", strategy(NAME, SYMBOLS))
    with redis_anywhere() as server, online_stage("10:30", tmp_path / "stage", models, rate=RATE) as desk:
        table: Table = {
            "policy": {"answers": "served", "served_deadline_ms": 10_000, "redis": f"unix://{server.socket}"}
        }
        password = {"REDIS_PASSWORD": server.passwords["rltraderd"]}
        desk.start(environment={**KEYS, **password}, tables=(table,))
        desk.until_true(lambda: desk.read_log("run_started") != [], "the daemon runs")
        (run,) = desk.read_log("run_started")
        with (
            contextlib.closing(server.client("rltrader-trainer")) as client,
            AnswerService(client, models, strategy(NAME, SYMBOLS), Logged().log) as serving,
        ):
            serving.turn_to(stream_name(run["desk"], run["epoch"]))
            desk.until_true(lambda: desk.journaled("PolicyAnswered") != [], "an answer is served")
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(60) == 0, desk.log()[-3000:]
        answers = desk.journaled("PolicyAnswered")
    assert {answer["model"] for answer in answers} == {VERSION}
    assert verified(tmp_path / "stage" / "state").difference == ""


def test_served_answers_without_an_address_are_refused_by_name(tmp_path: Path) -> None:
    models = put_momentum(tmp_path / "store", strategy(NAME, SYMBOLS))
    with online_stage("10:30", tmp_path / "stage", models, rate=RATE) as desk:
        for address, problem in (("", "policy.redis"), ("redis://10.0.0.1", "without TLS")):
            table: Table = {"policy": {"answers": "served", "redis": address}}
            assert desk.start(tables=(table,)).wait(60) == 2
            assert problem in desk.log()
