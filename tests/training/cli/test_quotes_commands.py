"""`train-and-export convert` and `check-quotes` as a user gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from daemon.tapes.quotes.calibration_file import read_calibration
from daemon.tapes.quotes.faults import FAULTS, REMARKS
from tests.support.paths import REPOSITORY
from tests.support.quote_files import lean_zip
from training.cli import search, train
from training.cli.main import main
from training.cli.search import search_from
from training.cli.studies import ablate
from training.cli.studies.ablate import ablation_of
from training.cli.train import settings_from
from training.data.quotes.source import QuoteSource
from training.studies.search.search import command

NAME = "20240815_spy_minute_quote_american_call_5500000_20240816.csv"
GOOD = "34200000,10000,10000,10000,10000,1,11000,11000,11000,11000,1"
CROSSED = "34260000,10000,10000,10000,10000,1,9000,9000,9000,9000,1"


def convert(tmp_path: Path, *lines: str) -> Path:
    path = lean_zip(tmp_path / "in.zip", {NAME: lines})
    assert main(["convert", "--from", "lean", str(path), "--out", str(tmp_path / "q.parquet")]) == 0
    return tmp_path / "q.parquet"


def test_convert_says_what_it_wrote_and_check_finds_nothing_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = convert(tmp_path, GOOD)
    assert "q.parquet: 1 quote of 1 session, 2024-08-15 to 2024-08-15" in capsys.readouterr().out
    assert main(["check-quotes", str(out)]) == 0
    output = capsys.readouterr().out
    assert "fault" not in output
    assert "lean: no row for a minute without a new quote; the last one stood" in output


def test_check_names_a_fault_in_the_table_and_as_json_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = convert(tmp_path, GOOD, CROSSED)
    capsys.readouterr()
    assert main(["check-quotes", str(out)]) == 1
    assert "crossed (fault)" in capsys.readouterr().out
    assert main(["check-quotes", "--json", str(out)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["rows"]) for one in document["findings"]] == [("crossed", 1)]
    assert document["coverage"][0]["expiry"] == "2024-08-16"


def test_an_unusable_file_and_a_wrong_option_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "q.parquet")
    assert main(["check-quotes", str(tmp_path / "none.parquet")]) == 2
    assert main(["convert", "--from", "lean", str(tmp_path / "none.zip"), "--out", out]) == 2
    assert main(["convert", "--from", "lean", str(tmp_path / "none.zip"), "--out", out, "--max-days", "-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].removeprefix(f"{tmp_path}/") for line in lines] == [
        "none.parquet: no such file; expected a file of option quotes: check the path",
        "none.zip: no such file; expected a file",
        "--max-days is -1; expected 0 or more",
    ]


def test_the_manual_lists_every_fault_and_remark() -> None:
    text = (REPOSITORY / "docs" / "DATA.md").read_text()
    for name, meaning in (FAULTS | REMARKS).items():
        assert f"| `{name}` | {meaning} |" in text


def test_calibrate_prints_the_present_constants_next_to_the_fitted_ones_and_writes_a_sealed_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put = NAME.replace("call", "put")
    quote = "34260000,9900,9900,9900,9900,1,10100,10100,10100,10100,1"
    path = lean_zip(tmp_path / "in.zip", {NAME: [quote], put: [quote]})
    assert main(["convert", "--from", "lean", str(path), "--out", str(tmp_path / "q.parquet")]) == 0
    capsys.readouterr()
    out = tmp_path / "calibration.json"
    assert main(["calibrate", "--quotes", str(tmp_path / "q.parquet"), "--out", str(out)]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in capsys.readouterr().out.splitlines()]
    assert ["half_spread", "0.004", "0.01"] in rows
    assert ["volatility_premium", "1.25", "–"] in rows
    assert read_calibration(out).fitted.half_spread == 0.01
    assert read_calibration(out).roots == ("SPY",)
    assert main(["calibrate", "--quotes", str(out), "--out", str(out)]) == 2


def test_the_closes_of_a_calibration_are_those_of_the_contracts_own_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spxw, bars = NAME.replace("spy", "spxw"), tmp_path / "bars.csv"
    bars.write_text("symbol,timestamp,open,high,low,close,volume\nSPY,1723608000000000000,550,550,550,550,1\n")
    arguments = ["calibrate", "--quotes", str(tmp_path / "q.parquet"), "--closes", str(bars)]
    for entries, words in (
        ({spxw: [GOOD]}, "no bar of SPXW in a session"),
        ({spxw: [GOOD], NAME: [GOOD]}, "contracts of SPXW, SPY; expected one root: name the underlying's bars by"),
    ):
        path = lean_zip(tmp_path / "in.zip", entries)
        assert main(["convert", "--from", "lean", str(path), "--out", str(tmp_path / "q.parquet")]) == 0
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
        main([*arguments, "--symbol", "SPY"])
        assert "no usable quote in it" in capsys.readouterr().err  # the bars are taken; a call alone has no forward


def test_every_command_that_trains_takes_recorded_quotes_and_refuses_half_of_their_options(tmp_path: Path) -> None:
    quotes = tmp_path / "quotes.parquet"
    quotes.write_bytes(b"quotes")
    arguments = ["--strategy", "option_scalper", "--bars", "bars.csv"]
    expected = QuoteSource(quotes, sha256(b"quotes").hexdigest(), root="SPY", synthetic_share=0.25)
    makers: tuple[Callable[[list[str]], QuoteSource | None], ...] = (
        lambda options: settings_from(train.parser().parse_args(options)).quotes,
        lambda options: search_from(search.parser().parse_args(options)).run.quotes,
        lambda options: ablation_of(ablate.parser().parse_args(options)).run.quotes,
    )
    for maker in makers:
        with_quotes = [*arguments, "--option-quotes", str(quotes), "--option-root", "SPY"]
        assert maker([*with_quotes, "--synthetic-share", "0.25"]) == expected
        assert maker(arguments) is None
        for share in ("1", "-0.1", "nan"):
            with pytest.raises(ValueError, match=f"--synthetic-share is {share}; expected 0 or more and below 1"):
                maker([*with_quotes, f"--synthetic-share={share}"])
        with pytest.raises(ValueError, match="--closes is given without --option-quotes"):
            maker([*arguments, "--closes", "bars.csv"])
    search_settings = search_from(
        search.parser().parse_args([*arguments, "--option-quotes", str(quotes), "--synthetic-share", "0.3"])
    )
    assert f"--option-quotes {quotes} --synthetic-share 0.3" in " ".join(command(search_settings, tmp_path))
