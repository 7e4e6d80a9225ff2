"""Each vendor's CSV, written by hand after its published description, becomes the quotes that stand beside it."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.quote_files import quotes_in, sessions_in
from training.data.quotes.columns import ColumnChoice, ConvertError
from training.data.quotes.convert import convert

THETA = (
    "symbol,expiration,strike,right,timestamp,bid_size,bid_exchange,bid,bid_condition,ask_size,ask_exchange,ask,"
    "ask_condition"
)
CBOE = (
    "underlying_symbol,quote_datetime,root,expiration,strike,option_type,open,high,low,close,trade_volume,bid_size,bid,"
    "ask_size,ask,underlying_bid,underlying_ask"
)
OPTIONSDX = (
    "[QUOTE_UNIXTIME], [QUOTE_READTIME], [QUOTE_DATE], [QUOTE_TIME_HOURS], [UNDERLYING_LAST], [EXPIRE_DATE], "
    "[EXPIRE_UNIX], [DTE], [C_DELTA], [C_GAMMA], [C_VEGA], [C_THETA], [C_RHO], [C_IV], [C_VOLUME], [C_LAST], [C_SIZE], "
    "[C_BID], [C_ASK], [STRIKE], [P_BID], [P_ASK], [P_SIZE], [P_LAST], [P_DELTA], [P_GAMMA], [P_VEGA], [P_THETA], "
    "[P_RHO], [P_IV], [P_VOLUME], [STRIKE_DISTANCE], [STRIKE_DISTANCE_PCT]"
)


def convert_lines(
    tmp_path: Path, form: str, lines: list[str], *, name: str = "in.csv", request: ColumnChoice | None = None
) -> Path:
    (tmp_path / name).write_text("\r\n".join(lines) + "\r\n")
    return from_file(tmp_path, form, name, request)


def from_file(tmp_path: Path, form: str, name: str, request: ColumnChoice | None = None) -> Path:
    convert(form, [tmp_path / name], tmp_path / "q.parquet", request or ColumnChoice(), lambda *_: None)
    return tmp_path / "q.parquet"


def theta(when: str, *, right: str = "CALL", expiry: str = "2024-11-08", strike: str = "220.000") -> str:
    return f"AAPL,{expiry},{strike},{right},{when},12,5,2.34,50,7,43,2.40,50"


# --- ThetaData --------------------------------------------------------------------------------------------------------


def test_thetadata_version_3(tmp_path: Path) -> None:
    lines = [THETA, theta("2024-11-04T09:31:00"), theta("2024-11-04T09:31:00.000", right="PUT", expiry="20241115")]
    out = convert_lines(tmp_path, "thetadata", lines)
    assert quotes_in(out) == [
        ("AAPL241108C00220000", "2024-11-04 14:31", 2.34, 2.4),
        ("AAPL241115P00220000", "2024-11-04 14:31", 2.34, 2.4),
    ]
    (session,) = sessions_in(out)
    assert session.sizes.tolist() == [[12, 12], [7, 7]]
    assert session.sources == ("thetadata",)


def test_thetadata_version_2_has_milliseconds_and_strikes_in_tenths_of_a_cent(tmp_path: Path) -> None:
    header = (
        "root,expiration,strike,right,ms_of_day,bid_size,bid_exchange,bid,bid_condition,ask_size,ask_exchange,ask,"
        "ask_condition,date"
    )
    out = convert_lines(
        tmp_path, "thetadata", [header, "SPXW,20240716,5487500,P,34260000,12,5,2.3,50,7,5,2.4,50,20240715"]
    )
    assert quotes_in(out) == [("SPXW240716P05487500", "2024-07-15 13:31", 2.3, 2.4)]


@pytest.mark.parametrize(
    ("local", "in_utc"),
    [
        ("2024-03-08T15:59:00", "2024-03-08 20:59"), ("2024-03-11T15:59:00", "2024-03-11 19:59"),
        ("2024-11-01T15:59:00", "2024-11-01 19:59"), ("2024-11-04T15:59:00", "2024-11-04 20:59"),
        ("2024-11-04T15:59:00-05:00", "2024-11-04 20:59"), ("2024-11-04T20:59:00Z", "2024-11-04 20:59"),
    ],
)  # fmt: skip
def test_wall_times_of_new_york_are_right_on_both_sides_of_a_change_of_clocks(
    tmp_path: Path, local: str, in_utc: str
) -> None:
    out = convert_lines(tmp_path, "thetadata", [THETA, theta(local, expiry="2024-12-20")])
    assert [quote[1] for quote in quotes_in(out)] == [in_utc]


@pytest.mark.parametrize("when", ["2024-03-10T02:30:00", "2024-11-03T01:30:00"])
def test_a_time_that_the_clocks_skip_or_repeat_is_an_error(tmp_path: Path, when: str) -> None:
    with pytest.raises(ConvertError, match="a time in the column timestamp is no single moment in New York"):
        convert_lines(tmp_path, "thetadata", [THETA, theta(when)])


MORNING = "2024-11-04T09:31:00"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (theta("2024-11-04 noon"), "a time in the column timestamp is malformed"),
        (theta(""), "found nothing in the column timestamp; expected a time in every row: repair the row"),
        (theta(MORNING + "Z"), "a time in the column timestamp is malformed .* in all rows with an offset or in none"),
        (theta(MORNING, expiry="8 Nov"), "found '8 Nov' in the column expiration; expected YYYY-MM-DD or YYYYMMDD"),
        (theta(MORNING, right="X"), "found 'X' in the column right; expected call, put, C or P"),
        (theta(MORNING, strike="220.0005"), r"found 220\.0005 in the column strike; expected a multiple of 0.001 USD"),
        (theta(MORNING, strike="1e99"), r"found 1e\+99 in the column strike; expected .* below 100,000"),
        (theta(MORNING).replace("2.34", "two"), "a row is malformed .*the column bid: .*two"),
        (theta(MORNING).replace("AAPL", ""), "found nothing in the column symbol; expected the contract's root"),
    ],
)
def test_a_malformed_value_is_an_error_that_names_it(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConvertError, match=words):
        convert_lines(tmp_path, "thetadata", [THETA, theta(MORNING), line])
    assert not (tmp_path / "q.parquet").exists()


def test_a_missing_column_is_an_error_that_names_it_the_file_and_what_was_found(tmp_path: Path) -> None:
    header = THETA.replace(",bid,", ",bid_price,")
    with pytest.raises(ConvertError, match=r"in\.csv: the column bid is missing; found symbol, expiration.*bid_price"):
        convert_lines(tmp_path, "thetadata", [header, theta("2024-11-04T09:31:00")])


def test_a_column_that_is_there_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    header = THETA.replace("bid_exchange", "bid", 1)
    with pytest.raises(ConvertError, match=r"in\.csv: the column bid is there more than once"):
        convert_lines(tmp_path, "thetadata", [header, theta("2024-11-04T09:31:00")])


def test_an_answer_without_data_is_an_error_that_shows_it(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"are missing; found no data for the request"):
        convert_lines(tmp_path, "thetadata", ["No data for the request"])


def test_adjusted_contracts_are_left_out_and_counted(tmp_path: Path) -> None:
    request = ColumnChoice()
    adjusted = theta("2024-11-04T09:31:00").replace("AAPL", "AAPL1")
    out = convert_lines(tmp_path, "thetadata", [THETA, adjusted, theta("2024-11-04T09:31:00")], request=request)
    assert [quote[0] for quote in quotes_in(out)] == ["AAPL241108C00220000"]
    assert dict(request.left_out) == {"adjusted contracts and symbols outside of the OCC format": 1}


# --- Cboe DataShop ----------------------------------------------------------------------------------------------------


def cboe(bid: str = "0.20", underlying: str = "400.00,400.02") -> str:
    return f"GLD,2024-09-04 10:00:00,GLD,2024-09-25,400.00,C,0.20,0.22,0.19,0.21,10,5,{bid},8,0.22,{underlying}"


def test_cboe_option_intervals_with_the_underlying(tmp_path: Path) -> None:
    (tmp_path / "in.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("UnderlyingOptionsIntervals_60sec_2024-09-04.csv", f"{CBOE}\n{cboe()}\n")
    out = from_file(tmp_path, "cboe", "in.zip")
    assert quotes_in(out) == [("GLD240925C00400000", "2024-09-04 14:00", 0.2, 0.22)]
    (session,) = sessions_in(out)
    assert (session.underlying.tolist(), session.sizes.tolist()) == ([pytest.approx(400.01)], [[5], [8]])


@pytest.mark.parametrize(
    ("date", "in_utc"),
    [
        ("2024-03-08", "2024-03-08 15:00"), ("2024-03-11", "2024-03-11 14:00"),
        ("2024-11-01", "2024-11-01 14:00"), ("2024-11-04", "2024-11-04 15:00"),
    ],
)  # fmt: skip
def test_cboe_times_are_right_on_both_sides_of_a_change_of_clocks(tmp_path: Path, date: str, in_utc: str) -> None:
    line = cboe().replace("2024-09-04", date).replace("2024-09-25", "2024-12-20")
    assert [quote[1] for quote in quotes_in(convert_lines(tmp_path, "cboe", [CBOE, line]))] == [in_utc]


def test_a_malformed_value_of_cboe_names_its_own_column(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="found 'X' in the column option_type; expected call, put, C or P"):
        convert_lines(tmp_path, "cboe", [CBOE, cboe().replace(",C,", ",X,")])


def test_cboe_columns_of_calculations_are_ignored_and_an_underlying_of_0_is_unknown(tmp_path: Path) -> None:
    header = f"{CBOE},implied_underlying_price,delta,open_interest"
    out = convert_lines(tmp_path, "cboe", [header, cboe("0", "0,0") + ",400,0.5,12"])
    (session,) = sessions_in(out)
    assert session.bid.tolist() == [0.0]
    assert np.isnan(session.underlying).all()


# --- OptionsDX --------------------------------------------------------------------------------------------------------


def test_optionsdx_has_call_and_put_in_one_row_and_its_time_in_utc(tmp_path: Path) -> None:
    line = (
        "1672779600, 2023-01-03 16:00, 2023-01-03, 16.000000, 380.820000, 2023-01-04, 1672866000, 1.000000, 0.5, 0.1,"
        " 0.1, -0.1, 0.1, 0.2, 10.0, 1.5, 12 x 30, 1.420000, 1.450000, 381.000000, 1.600000, 1.620000, 7 x 9, 1.6,"
        " -0.5, 0.1, 0.1, -0.1, 0.1, , 5.0, 0.2, 0.001"
    )
    empty = line.replace("12 x 30, 1.420000, 1.450000", " , , ")
    out = convert_lines(
        tmp_path, "optionsdx", [OPTIONSDX, line, empty.replace("381.0", "382.0")], name="spy_eod_202301.txt",
        request=ColumnChoice(roots=frozenset({"SPY"})),
    )  # fmt: skip
    assert quotes_in(out) == [
        ("SPY230104C00381000", "2023-01-03 21:00", 1.42, 1.45),
        ("SPY230104C00382000", "2023-01-03 21:00", 0.0, 0.0),
        ("SPY230104P00381000", "2023-01-03 21:00", 1.6, 1.62),
        ("SPY230104P00382000", "2023-01-03 21:00", 1.6, 1.62),
    ]
    (session,) = sessions_in(out)
    assert session.sizes.tolist() == [[12, -1, 7, 7], [30, -1, 9, 9]]
    assert session.underlying.tolist() == [380.82] * 4


def test_optionsdx_without_the_name_of_the_underlying_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"OptionsDX names no underlying.*--symbols SPY"):
        convert_lines(tmp_path, "optionsdx", [OPTIONSDX])


# --- all --------------------------------------------------------------------------------------------------------------


def test_a_gzipped_file_reads_as_a_plain_one_and_a_truncated_one_is_an_error(tmp_path: Path) -> None:
    data = gzip.compress("\n".join([THETA, *(theta(f"2024-11-04T10:{i:02}:00") for i in range(60))]).encode())
    (tmp_path / "in.csv.gz").write_bytes(data)
    assert len(quotes_in(from_file(tmp_path, "thetadata", "in.csv.gz"))) == 60
    before = (tmp_path / "q.parquet").read_bytes()
    (tmp_path / "in.csv.gz").write_bytes(data[:-20])
    with pytest.raises(ConvertError, match=r"in\.csv\.gz: truncated or damaged"):
        from_file(tmp_path, "thetadata", "in.csv.gz")
    assert (tmp_path / "q.parquet").read_bytes() == before


def test_several_files_become_one_and_files_of_the_schema_are_joined(tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text(f"{THETA}\n{theta('2024-11-05T09:31:00')}\n")
    second.write_text(f"{THETA}\n{theta('2024-11-04T09:31:00')}\n")
    out, joined = tmp_path / "q.parquet", tmp_path / "j.parquet"
    convert("thetadata", [first, second], out, ColumnChoice(), lambda *_: None)
    assert [quote[1] for quote in quotes_in(out)] == ["2024-11-04 14:31", "2024-11-05 14:31"]
    made_again = convert("quotes", [out], joined, ColumnChoice(), lambda *_: None)
    assert (quotes_in(joined), made_again.written.rows) == (quotes_in(out), 2)
    assert sessions_in(joined)[0].sources == ("thetadata",)


def test_an_output_that_is_an_input_and_a_missing_input_are_errors(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").write_text(f"{THETA}\n")
    with pytest.raises(ConvertError, match="is one of the files to convert"):
        from_file(tmp_path, "thetadata", "q.parquet")
    with pytest.raises(ConvertError, match=r"none\.csv: no such file"):
        from_file(tmp_path, "thetadata", "none.csv")
