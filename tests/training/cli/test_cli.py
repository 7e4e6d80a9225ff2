"""The command as a user gives it: its output, its exit codes, and how it refuses."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import io
import json
import os
import shlex
import shutil
import signal
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from stable_baselines3 import PPO

from strategies.kit.manifest import decode, encode
from strategies.kit.synthetic import synthetic_sessions
from strategies.registry import STRATEGIES
from tests.support.training.made_up import sessions, write_csv
from training.cli import search
from training.cli.main import main
from training.cli.train import parser, settings_from
from training.desks.registry import kind
from training.evidence.findings import decode as decode_findings
from training.gym import OptionScalperEnv
from training.runs.record import Outcome

Trained = tuple[Path, Path, str, int]


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("bars") / "walk.csv", synthetic_sessions(3, sessions(27)))


@pytest.fixture(scope="module")
def training_run(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The version and the run folder of one short run, its standard error and its exit code."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "run"
    arguments = [
        "--strategy",
        "option_scalper",
        "--bars",
        str(bars),
        "--out",
        str(folder / "store"),
        "--run-dir",
        str(run),
    ]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments, "--steps", "1", "--processes", "1", "--promote"])
    assert out.getvalue(), err.getvalue()  # without a version an empty path would stand for the whole checkout
    return Path(out.getvalue().strip()), run, err.getvalue(), code


def test_the_command_ends_with_verdict_report_and_version_and_promotes_nothing_unproven(training_run: Trained) -> None:
    version, _, output, code = training_run
    findings = json.loads((version / "report.json").read_bytes())
    assert not (version.parent / "current").exists()  # exporting and activating are two acts
    assert "16,384 steps" in output  # one whole rollout: 256 environments x 64 steps
    assert f"computes in float32 on this CPU ({torch.backends.cpu.get_cpu_capability()}), products in" in output
    assert "best so far" in output
    assert findings["verdict"] in output
    assert f"{version.name} is not promoted" in output
    assert "seeds: at least 10 seeds in every fold; found 1" in output
    assert code == 1
    (last,) = (line for line in output.splitlines() if line.startswith("exported, not active"))
    words = shlex.split(last.partition("use it: ")[2])
    assert words[:5] == ["rltraderctl", "models", "activate", version.name, "--strategy"]
    assert words[words.index("--models-dir") + 1] == str(version.parent.parent)
    assert not decode((version / "manifest.json").read_bytes()).promoted


def end_run(
    training_run: Trained,
    trades: int,
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    *options: str,
    passive: bool = False,
) -> tuple[int, Path]:
    """The exit code of a run whose policy traded so often in its test, and the version that it left in `store`."""
    version = shutil.copytree(training_run[0], store / "option_scalper" / training_run[0].name)
    findings = decode_findings((version / "report.json").read_bytes())
    figures = msgspec.structs.replace(findings.policy.figures, trades=trades)
    findings = msgspec.structs.replace(findings, policy=msgspec.structs.replace(findings.policy, figures=figures))
    outcome = Outcome(version, training_run[1], findings, passive)
    monkeypatch.setattr("training.runs.run.train_and_export", lambda *_: outcome)
    return main(["--strategy", "option_scalper", "--bars", "b.csv", "--out", str(store), *options]), version


@pytest.mark.parametrize(
    ("trades", "options", "code", "active"),
    [(3, (), 0, False), (3, ("--activate",), 0, True), (0, ("--activate",), 1, False),
     (0, ("--activate", "--allow-passive"), 0, True)],
)  # fmt: skip
def test_a_version_is_activated_on_request_and_one_that_never_traded_only_on_a_further_one(
    trades: int, options: tuple[str, ...], code: int, active: bool, training_run: Trained, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    exit_code, version = end_run(training_run, trades, monkeypatch, tmp_path / "store", *options)
    pointer, errors = version.parent / "current", capsys.readouterr().err
    assert (exit_code, pointer.exists()) == (code, active)
    assert not active or pointer.read_text() == f"{version.name}\n"
    assert ("exported and active" in errors, "exported, not active" in errors) == (active, not active)
    assert ("it never traded in its" in errors and "--allow-passive" in errors) == (trades == 0 and not active)


@pytest.mark.parametrize("trades", [3, 0])
@pytest.mark.parametrize("options", [(), ("--activate",)])
def test_a_version_that_answers_already_is_told_as_active(
    trades: int, options: tuple[str, ...], training_run: Trained, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pointer = tmp_path / "store" / "option_scalper" / "current"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(f"{training_run[0].name}\n")
    code, version = end_run(training_run, trades, monkeypatch, tmp_path / "store", *options)
    errors = capsys.readouterr().err
    assert (code, pointer.read_text()) == (0, f"{version.name}\n")
    assert "active already" in errors
    assert "not active" not in errors


def test_the_passive_policy_is_activated_although_it_never_trades(
    training_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, version = end_run(training_run, 0, monkeypatch, tmp_path / "store", "--activate", passive=True)
    assert (code, (version.parent / "current").read_text()) == (0, f"{version.name}\n")


def test_the_report_says_the_command_that_makes_it_again(training_run: Trained) -> None:
    version, run, _, _ = training_run
    command = "--strategy option_scalper --bars walk.csv --models-dir onnx_models --steps 1 --processes 1"
    assert f"train-and-export {command}" in (version / "report.html").read_text()
    asked_for = json.loads((run / "run.json").read_bytes())
    assert asked_for.pop("made_with")["device"] == "cpu"
    assert settings_from(parser().parse_args(command.split())).identity(asked_for["bars_sha256"]) == asked_for


def test_a_report_is_made_again_from_the_run_s_folder(
    training_run: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training_run[1]
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == page
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(run / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_manifest_of_another_policy_than_the_report_s_is_not_promoted(
    training_run: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / training_run[0].name
    shutil.copytree(training_run[0], folder)
    manifest = decode((folder / "manifest.json").read_bytes())
    edited = encode(msgspec.structs.replace(manifest, policy_sha256="0" * 64))
    (folder / "manifest.json").write_bytes(edited)
    assert main(["promote", str(folder)]) == 1
    assert "digest" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == edited


def test_a_model_of_stable_baselines3_comes_into_the_store_with_the_same_checks(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    layers = {"net_arch": [8]}
    model = PPO(
        "MlpPolicy", OptionScalperEnv(bars), n_steps=32, batch_size=32, policy_kwargs=layers, device="cpu", seed=1
    )
    model.save(tmp_path / "model.zip")
    arguments = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "store")]
    arguments += ["--run-dir", str(tmp_path / "run")]
    assert main([*arguments, "--import-sb3", str(tmp_path / "model.zip")]) == 0
    version = Path(capsys.readouterr().out.strip())
    manifest = decode((version / "manifest.json").read_bytes())
    assert (manifest.hyperparameters["imported"], manifest.promoted) == ("model.zip", False)
    again = ["--run-dir", str(tmp_path / "again"), "--import-onnx", str(version / "policy.onnx")]
    assert main([*arguments, *again]) == 0  # an ONNX file of any origin: here the one just made
    same = Path(capsys.readouterr().out.strip())
    assert same == version  # a version is named by the digest of its graph
    (tmp_path / "model.zip").write_bytes(b"no zip")
    assert main([*arguments, "--restart", "--import-sb3", str(tmp_path / "model.zip")]) == 2
    assert "model.zip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("strategy", "file", "complaint"),
    [
        ("option_scalpel", "walk.csv", "did you mean 'option_scalper'?"),
        ("option_scalper", "missing.csv", "missing.csv"),
        ("option_scalper", "short.csv", "too little history: 2 usable sessions"),
        ("option_scalper", "shorter.csv", "too little history: 0 usable sessions, at least 5 are needed"),
        ("option_scalper", "sparse.csv", "most bars are 300 s apart; expected bars of 60 s"),
    ],
)
def test_what_cannot_be_trained_on_ends_with_exit_code_2_one_line_and_no_file(
    strategy: str, file: str, complaint: str, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_bars = list(synthetic_sessions(3, sessions(23)))
    write_csv(tmp_path / "short.csv", session_bars)
    write_csv(tmp_path / "shorter.csv", session_bars[:390])  # one session, and none that warms the desk up
    write_csv(tmp_path / "sparse.csv", session_bars[::5])
    (tmp_path / "walk.csv").write_bytes(bars.read_bytes())
    out, run = tmp_path / "models", tmp_path / "run"
    arguments = ["--strategy", strategy, "--bars", str(tmp_path / file), "--out", str(out), "--run-dir", str(run)]
    assert main([*arguments, "--steps", "1"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("train-and-export: ")
    assert complaint in message
    assert not out.exists()
    assert not run.exists()


def test_more_folds_than_the_sessions_allow_are_refused_with_what_is_needed(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "s"), "--folds", "3"]
    assert main([*arguments, "--run-dir", str(tmp_path / "r")]) == 2
    # 20 + 22 + 20 + 22 + 3 x 20
    assert (
        "6 usable sessions; folds = 3 needs 144 (train on 20 sessions and more, validate on 20, test on 20 sessions, "
        "22 left out between spans), there can be 0"
    ) in capsys.readouterr().err


def test_a_size_that_is_stated_is_not_given_up_for_60_20_20_even_where_it_is_the_usual_one(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "s")]
    assert main([*arguments, "--run-dir", str(tmp_path / "r"), "--purge-sessions", "22"]) == 2
    # 20 + 22 + 20 + 22 + 20
    assert "6 usable sessions; folds = 1 needs 104" in (printed := capsys.readouterr().err)
    assert "22 left out between spans" in printed


def test_no_size_of_a_fold_is_taken_for_a_strategy_whose_procedure_has_its_own(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "online_dqn", "--preset", "smoke", "--bars", str(bars), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--run-dir", str(tmp_path / "r"), "--purge-sessions", "0"])
    assert exit_info.value.code == 2
    assert "--purge-sessions is not for online_dqn: its procedure has its own folds" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_option_that_a_procedure_lacks_is_one_and_is_refused_with_the_reason(strategy: str) -> None:
    training_kind, options = kind(strategy), {action.dest for action in parser()._actions}
    lacks = training_kind.procedure.lacks()
    assert lacks
    assert lacks.keys() <= options
    for name, reason in lacks.items():
        assert training_kind.refusal(["bars", name]) == f"--{name.replace('_', '-')} is not for {strategy}: {reason}"
    assert training_kind.refusal(["bars"]) == ""


@pytest.mark.parametrize(
    "argument",
    [
        ["--steps", "0"],
        ["--seed", "-1"],
        ["--reward", "fame"],
        ["--folds", "0"],
        ["--seeds", "0"],
        ["--network", "cnn"],
        ["--train-sessions", "0"],
        ["--test-sessions", "0"],
        ["--purge-sessions", "-1"],
        ["--reference-years"],  # no reference names any
        ["--import-sb3", "model.zip", "--refit"],
        ["--seed", "9999999999999"],
        ["--import-sb3", "model.zip", "--folds", "2"],
        ["--golden", "golden.npz"],  # of no model
        ["--activation", "relu"],
    ],
)
def test_an_argument_out_of_bounds_ends_with_exit_code_2(argument: list[str], bars: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path), *argument])
    assert exit_info.value.code == 2


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--stpes", "300000"], "no option is called '--stpes'; did you mean --steps?"),
        (
            ["--strategi=option_scalper", "--bars", "b.csv"],
            "no option is called '--strategi'; did you mean --strategy?",
        ),
        (["--zzz"], "no option is called '--zzz'; train-and-export --help lists all"),
    ],
)
def test_a_mistyped_option_is_named_with_the_nearest_one_below_two_lines_of_usage(
    given: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(given)
    lines = capsys.readouterr().err.splitlines()
    assert (exit_info.value.code, len(lines)) == (2, 3)
    assert lines[-1] == f"train-and-export: error: {complaint}"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["downlod", "--symbols", "SPY"], "did you mean download?"),
        (
            ["fly"],
            "no command is called 'fly': expected one of learn, download, data, convert, check-quotes, calibrate, ",
        ),
        (["report", "nowhere"], "nowhere holds no study.json: give the folder of a run"),
        (["promote", "2024-12-31-0badcafe"], "2024-12-31-0badcafe is no version of the store: give its folder"),
    ],
)
def test_what_is_no_command_and_no_folder_of_its_kind_ends_with_exit_code_2_and_one_line(
    given: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    errors = capsys.readouterr().err
    assert (errors.count("\n"), complaint in errors) == (1, True)


def test_a_study_that_was_cut_off_is_named(
    training_run: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.json").write_bytes((training_run[1] / "study.json").read_bytes()[:1_000])
    assert main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path / 'study.json'} cannot be read (" in capsys.readouterr().err


def test_a_full_disk_is_said_with_what_to_do(
    training_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "study.json").write_bytes((training_run[1] / "study.json").read_bytes())
    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"train-and-export: {tmp_path / 'report.html'}: No space left on device: make room, and give the same command "
        "again to go on\n"
    )


@pytest.mark.parametrize("device", ["cuda:99", "cuda:one", "gpu"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "option_scalper", "--bars", str(tmp_path / "none.csv"), "--out", str(tmp_path / "s")]
    assert main([*arguments, "--run-dir", str(tmp_path / "r"), "--device", device]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"device {device!r} is not" in lines[0]
    assert not list(tmp_path.iterdir())


def test_processes_that_cannot_share_the_environments_are_refused_before_any_is_started(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "s")]
    assert main([*arguments, "--run-dir", str(tmp_path / "r"), "--processes", "1000"]) == 2
    assert "256 environments and minibatches of 1024 cannot be shared by 1000 processes" in capsys.readouterr().err


def test_who_presses_ctrl_c_before_a_run_has_begun_sees_one_line(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "coefficients.json")
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def press() -> None:
        with (tmp_path / "coefficients.json").open("wb", buffering=0) as pipe:
            pipe.write(b"{")
            while fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) != bytes(4):  # until the command reads it
                time.sleep(0.01)
            for _ in range(10):  # one that comes between two reads of the same call is not seen before the next
                signal.pthread_kill(main_thread, signal.SIGINT)
                if released.wait(3):
                    break

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are born deaf to it
    released = threading.Event()
    presser = threading.Thread(target=press)
    presser.start()
    arguments = ["--strategy", "option_scalper", "--bars", str(bars), "--out", str(tmp_path / "s")]
    code = main([*arguments, "--coefficients", str(tmp_path / "coefficients.json")])
    released.set()
    presser.join()
    signal.signal(signal.SIGINT, handler)
    assert (code, capsys.readouterr().err) == (130, "train-and-export: stopped; give the same command again to go on\n")


@pytest.mark.parametrize("command", [parser, search.parser])
def test_auto_is_bf16_only_where_the_cpu_multiplies_it(
    command: Callable[[], argparse.ArgumentParser], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategy", "option_scalper", "--bars", "bars.csv", "--precision"]
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    faster = "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"
    assert command().parse_args([*arguments, "auto"]).precision == faster
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert command().parse_args([*arguments, "auto"]).precision == "float32"
    assert command().parse_args([*arguments, "bf16"]).precision == "bf16"
    with pytest.raises(SystemExit):
        command().parse_args([*arguments, "half"])
    assert "argument --precision: 'half': expected one of float32, bf16, auto" in capsys.readouterr().err
