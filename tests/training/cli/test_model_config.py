"""A state vector of one's own: through training, export, the store, a dry run and the trainer."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.config.strategy import strategy_of
from daemon.host.ed25519 import keygen
from daemon.models.store import ModelError, load, versions
from strategies.kit.manifest import MANIFEST_FILE, Manifest, decode
from strategies.online_dqn.state_vector import parse
from strategies.registry import strategy
from tests.support.desks.desk_run import Desk, bundled_rows, records, settings, verified, write_tape
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import Logged, redis_anywhere
from tests.support.rl.trainer_work import work
from training.cli.main import main
from training.cli.train import parser, settings_from
from training.desks.online.kind import KIND
from training.desks.registry import kind

NAME = "online_dqn"
OWN = """
version: 1
bar_minutes: 5
window: 3
symbols: [SPY]
indicators:
  - {name: ROCP, parameters: {timeperiod: 1}, scale: {divide_by: 0.002}}
  - {name: RSI, parameters: {timeperiod: 5}, scale: {center: 50, divide_by: 20}}
  - {name: STOCH, output: slowk, scale: {center: 50, divide_by: 25}}
portfolio: [position, age]
heads: {direction: {bars: 2}}
"""
FEATURES = ("ROCP(1)", "RSI(5)", "STOCH(5,3,0,3,0).slowk", "position", "age")
SMALL = ["--preset", "smoke", "--steps", "1024", "--processes", "1", "--allow-unproven"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "model_config.yaml"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def bars(model_file: Path) -> Path:
    """The bundled tape by five minutes."""
    rows = [row for day in bundled_rows().values() for row in _by_five(day)]
    return write_tape(model_file.parent / "bars.csv", rows)


def _by_five(day: list[str]) -> Iterator[str]:
    for first in range(0, len(day), 5):
        yield _bar(day[first : first + 5])


def _bar(minutes: list[str]) -> str:
    part = [row.split(",") for row in minutes]
    high, low = max(float(row[3]) for row in part), min(float(row[4]) for row in part)
    volume = sum(int(row[6]) for row in part)
    return f"SPY,{part[0][1]},{part[0][2]},{high},{low},{part[-1][5]},{volume}"


@pytest.fixture(scope="module")
def version(model_file: Path, bars: Path) -> Path:
    folder, out, err = model_file.parent, io.StringIO(), io.StringIO()
    arguments = ["--strategy", NAME, "--bars", str(bars), "--models-dir", str(folder / "store"), "--run-dir"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments, str(folder / "run"), "--model-config", str(model_file), *SMALL])
    assert code == 0, err.getvalue()
    return Path(out.getvalue().strip())


@pytest.fixture(scope="module")
def manifest(version: Path) -> Manifest:
    return decode((version / MANIFEST_FILE).read_bytes())


def test_the_manifest_has_the_file_its_digest_and_its_shapes(version: Path, manifest: Manifest) -> None:
    config = manifest.model_config
    assert [one["name"] for one in config["indicators"]] == ["ROCP", "RSI", "STOCH"]
    assert (config["window"], config["bar_minutes"], config["portfolio"]) == (3, 5, ["position", "age"])
    assert manifest.observation_shape == (3 * 3 + 2,)
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    assert manifest.model_config_digest == hashlib.sha256(text.encode()).hexdigest()
    assert manifest.hyperparameters["model_config"] == manifest.model_config_digest
    assert {*manifest.golden.heads[0]} == {"direction"}
    assert manifest.reference is not None
    assert tuple(one.name for one in manifest.reference.features) == FEATURES
    command = msgspec.json.decode((version.parents[2] / "run" / "study.json").read_bytes())["settings"]["command"]
    assert "--model-config model_config.yaml --symbols SPY" in command


def desk(model_file: Path, tape: Path, version: Path, **more: Any) -> Desk:
    defaults = {"desk__strategy": NAME, "desk__model_config": str(model_file), "policy__version": version.name}
    return Desk(tape, paths__models_dir=version.parent.parent, **defaults | more)


def test_a_dry_run_of_the_same_file_asks_the_model_and_verifies(
    model_file: Path, bars: Path, version: Path, tmp_path: Path
) -> None:
    rows = bars.read_text().splitlines()[1:]
    run = desk(model_file, write_tape(tmp_path / "days.csv", rows[: 78 * 2]), version)
    assert run.run(tmp_path / "state").failure is None
    decisions = [row for row in records(tmp_path / "state", "decisions") if row["kind"] == "policy"]
    assert len(decisions) == 78
    assert {len(row["row"]) for row in decisions} == {4 * len(FEATURES)}
    assert verified(tmp_path / "state").difference == ""


def test_the_model_and_a_desk_of_another_file_refuse_each_other_by_name(
    model_file: Path, bars: Path, version: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(OWN.replace("[position, age]", "[position]"))
    with pytest.raises(ModelError, match=r"was trained with portfolio .*age.*, this desk's model configuration has"):
        desk(other, bars, version)
    with pytest.raises(ModelError, match="was trained with bar_minutes 5, this desk's model configuration has 1"):
        load(version.parent.parent, strategy(NAME), version.name)


def test_the_trainer_makes_and_signs_its_first_version_for_the_same_contract(
    model_file: Path, bars: Path, version: Path, manifest: Manifest, tmp_path: Path, server: RedisServer
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    arguments = ["--desk", "toy", "--redis", f"unix://{server.socket}", "--models-dir", str(store), "--bars", str(bars)]
    public = keygen(tmp_path / "key")
    arguments += ["--signing-key", str(tmp_path / "key"), "--public-key", f"{keygen(tmp_path / 'other')},{public}"]
    arguments += ["--own-dir", str(tmp_path / "own"), "--preset", "smoke", "--model-config", str(model_file)]
    with server.client("rltrader-trainer") as client:
        work(arguments, client, Logged(), iter([lambda: bool(versions(store, NAME))]))
    (name,) = versions(store, NAME)
    first_manifest = decode((store / NAME / name / MANIFEST_FILE).read_bytes())
    assert (first_manifest.contract_hash, first_manifest.model_config) == (
        manifest.contract_hash,
        manifest.model_config,
    )
    maker = strategy_of(settings(tmp_path, desk__strategy=NAME, desk__model_config=str(model_file)))
    assert load(store, maker, name, public).version == name
    with pytest.raises(ModelError, match="is not the signature of this manifest"):
        load(store, maker, name, keygen(tmp_path / "third"))
    with pytest.raises(ModelError, match="sign the version"):
        load(version.parent.parent, maker, version.name, public)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_anywhere() as running:
        yield running


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("name: RSI", "name: RSII", "'RSII' is unknown: did you mean RSI?"),
        ("position, age", "position, aeg", "'aeg' is unknown: did you mean age?"),
        ("{timeperiod: 5}", "{timeperiode: 5}", "'timeperiode' is unknown: did you mean timeperiod?"),
        ("slowk", "slowq", "'slowq' is unknown: did you mean slowk?"),
        ("window", "windows", "'windows' is unknown: did you mean window?"),
    ],
)
@pytest.mark.parametrize("command", [[], ["search"], ["analyse", "warmup"]])
def test_a_mistake_of_the_file_names_the_nearest_known_name(
    command: list[str], was: str, now: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(OWN.replace(was, now, 1))
    arguments = ["--strategy", NAME, "--bars", "none.csv", "--model-config", str(wrong)]
    assert main([*command, *arguments]) == 2
    assert f"{wrong}: " in (message := capsys.readouterr().err)
    assert expected in message


@pytest.mark.parametrize("command", [[], ["search"], ["analyse", "warmup"]])
def test_a_strategy_without_a_file_and_a_missing_file_are_refused(
    command: list[str], model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--strategy", "option_scalper", "--bars", "x.csv", "--model-config", str(model_file)]) == 2
    assert "option_scalper has no model configuration: leave --model-config out" in capsys.readouterr().err
    assert main([*command, "--strategy", NAME, "--bars", "x.csv", "--model-config", "/nowhere.yaml"]) == 2
    assert "/nowhere.yaml cannot be read (No such file or directory): name a readable" in capsys.readouterr().err


def test_the_desks_configuration_names_the_file_where_the_command_does_not(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[desk]\nmodel_config = "{model_file}"\n')
    arguments = ["--strategy", NAME, "--bars", "b.csv", "--config", str(tmp_path / "config.toml")]
    parsed = settings_from(parser().parse_args(arguments))
    explicit = settings_from(
        parser().parse_args([*arguments[:4], "--model-config", str(model_file), "--symbols", "QQQ,SPY"])
    )
    assert parsed.model_config == explicit.model_config != ""
    assert (parsed.symbols, explicit.symbols) == (("SPY",), ("QQQ", "SPY"))
    shipped = settings_from(parser().parse_args(arguments[:4]))
    assert "model_config" not in shipped.identity("0" * 64)
    assert "model_config_file" not in explicit.identity("0" * 64)


def test_a_longer_look_back_leaves_more_sessions_out_between_spans() -> None:
    """139 minutes before the open are one session, 4 x 50 + 2 bars of five minutes three; then the episode's own."""
    slow = OWN.replace("{timeperiod: 5}", "{timeperiod: 50}")
    assert (KIND.walk.purge, kind(NAME, _canonical(slow)).walk.purge) == (2, 4)


def _canonical(text: str) -> str:
    return parse(text.encode(), "own.yaml").text
