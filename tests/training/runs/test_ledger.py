"""The ledger as files on a disk: what is written stays, what is torn is reported, what is corrupt stops everything."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from training.runs.ledger import Ledger, LedgerError, LedgerLine, ledger_path, settings_digest, utc_now

DATA, OTHER, SETTINGS = "a" * 64, "b" * 64, "c" * 64


def _trial(sharpe: float, first: str = "2024-10-01", last: str = "2024-10-31", data: str = DATA) -> LedgerLine:
    return LedgerLine(
        kind="trial",
        utc="2026-11-20T14:00:00+00:00",
        strategy="option_scalper",
        data_sha256=data,
        first=first,
        last=last,
        study="walk-forward",
        sharpe=sharpe,
        settings_sha256=SETTINGS,
    )


def _opening(first: str = "2024-10-01", last: str = "2024-10-31", data: str = DATA) -> LedgerLine:
    return LedgerLine(
        kind="opening",
        utc=utc_now(),
        strategy="option_scalper",
        data_sha256=data,
        first=first,
        last=last,
        study="walk-forward",
        note="first look",
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(ledger_path(tmp_path, "option_scalper"))


def test_what_is_appended_is_read_again_in_order(ledger: Ledger, tmp_path: Path) -> None:
    lines = (_opening(), _trial(0.1), _trial(-0.25))
    ledger.append(lines[0])
    ledger.append(*lines[1:])
    ledger.append()
    assert ledger.path == tmp_path / "option_scalper" / "ledger.jsonl"
    assert ledger.read().lines == lines
    assert ledger.read().torn == ()
    assert len(ledger.path.read_bytes().splitlines()) == 3


def test_a_line_is_one_object_of_json_with_its_kind() -> None:
    assert msgspec.json.decode(msgspec.json.encode(_trial(0.5))) == {
        "kind": "trial",
        "utc": "2026-11-20T14:00:00+00:00",
        "strategy": "option_scalper",
        "data_sha256": DATA,
        "first": "2024-10-01",
        "last": "2024-10-31",
        "study": "walk-forward",
        "sharpe": 0.5,
        "settings_sha256": SETTINGS,
    }


def test_no_file_yet_means_no_trial_yet(ledger: Ledger) -> None:
    assert ledger.read().lines == ()
    assert ledger.prior(["2024-10-01"]) == ((), 0)


def test_prior_trials_are_those_on_the_same_sessions_or_later_ones_whatever_file_they_were_in(ledger: Ledger) -> None:
    ledger.append(
        _trial(0.1),
        _trial(0.2, "2024-09-01", "2024-10-01"),  # one session in common
        _trial(0.3, "2024-09-01", "2024-09-30"),  # before
        _trial(0.4, "2024-11-04", "2024-11-29"),  # later than one of the sessions asked for
        _trial(0.6, "2025-01-02", "2025-01-31"),  # later than all
        _trial(0.5, data=OTHER),
        _opening(),
        _opening("2024-12-02", "2024-12-31"),
        _opening("2025-01-02", "2025-01-31"),  # opens none of them
        _opening(data=OTHER),
    )
    dates = ["2024-10-01", "2024-10-02", "2024-12-02"]
    assert ledger.prior(dates) == ((0.1, 0.2, 0.4, 0.6, 0.5), 3)
    assert ledger.prior(dates, own_lines=[_trial(0.2), _opening()]) == ((0.1, 0.4, 0.6, 0.5), 0)
    assert ledger.prior([]) == ((), 0)


@pytest.mark.parametrize("count", [1, 30, -2])
def test_a_torn_last_line_is_told_and_stays_when_others_follow(ledger: Ledger, count: int) -> None:
    ledger.append(_trial(0.1))
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + whole[:count])
    lines = ledger.read()
    assert (lines.lines, lines.torn) == ((_trial(0.1),), (2,))
    ledger.append(_trial(0.2), _trial(0.3))
    lines = ledger.read()
    assert [line.sharpe for line in lines.lines] == [0.1, 0.2, 0.3]
    assert lines.torn == (2,)
    assert ledger.path.read_bytes().startswith(whole + whole[:count] + b"\n")
    ledger.append(_trial(0.4))
    assert ledger.read().torn == (2,)


def test_a_second_crash_over_a_torn_line_is_told_as_well(ledger: Ledger) -> None:
    ledger.append(_trial(0.1))
    with ledger.path.open("ab") as file:
        file.write(b'{"kind":"tri')
    ledger.append(_trial(0.2))
    ledger.path.write_bytes(ledger.path.read_bytes()[:-40])
    assert ledger.read().torn == (2, 3)
    ledger.append(_trial(0.3))
    lines = ledger.read()
    assert ([line.sharpe for line in lines.lines], lines.torn) == ([0.1, 0.3], (2, 3))


def test_a_last_line_that_lacks_only_its_end_counts(ledger: Ledger) -> None:
    ledger.append(_trial(0.1))
    ledger.path.write_bytes(ledger.path.read_bytes()[:-1])
    assert ledger.read().torn == ()
    ledger.append(_trial(0.2))
    assert [line.sharpe for line in ledger.read().lines] == [0.1, 0.2]


@pytest.mark.parametrize(
    "wrong",
    [
        b"garbage",
        b"",
        b"\xff\xfe",
        b'{"kind":"trial"}',
        msgspec.json.encode(_trial(0.2)).replace(b'"sharpe":0.2', b'"sharpe":null'),
        msgspec.json.encode(_trial(0.2)).replace(b'"study"', b'"studies"'),
        msgspec.json.encode(_trial(0.2)).replace(b"2024-10-31", b"2023-10-31"),
        msgspec.json.encode(_trial(0.2)).replace(b"2024-10-31", b"yesterday"),
    ],
)
def test_a_corrupt_line_names_its_number_and_hides_no_trial(ledger: Ledger, wrong: bytes) -> None:
    ledger.append(_trial(0.1))
    whole = ledger.path.read_bytes()
    for data in (whole + wrong + b"\n" + whole, whole + wrong + b"\n"):
        ledger.path.write_bytes(data)
        with pytest.raises(LedgerError, match=r"line 2 of .*ledger\.jsonl is corrupt"):
            ledger.prior(["2024-10-01"])


def test_a_ledger_that_cannot_be_read_or_written_is_an_error_not_zero_trials(tmp_path: Path) -> None:
    folder = Ledger(tmp_path)
    with pytest.raises(LedgerError, match="could not be read"):
        folder.prior(["2024-10-01"])
    with pytest.raises(LedgerError, match="could not be written"):
        folder.append(_opening())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sharpe": None}, "expected a finite number"),
        ({"sharpe": math.nan}, "expected a finite number"),
        ({"settings_sha256": ""}, "settings_sha256"),
        ({"data_sha256": "A" * 64}, "lower case"),
        ({"first": "2024-11-01"}, "first session before the last"),
        ({"kind": "opening"}, "for trials alone"),
        ({"utc": "now"}, "now"),
        ({"utc": "2026-11-20T14:00:00"}, "ends with"),
    ],
)
def test_a_line_that_says_too_little_or_too_much_is_never_made(change: dict[str, object], message: str) -> None:
    fields = {name: getattr(_trial(0.1), name) for name in LedgerLine.__struct_fields__} | change
    with pytest.raises(ValueError, match=message):
        LedgerLine(**fields)


def _write_many(path: Path, writer: int) -> None:
    for nth in range(20):
        Ledger(path).append(_trial(float(writer), data=f"{writer}{nth:063d}"), _trial(writer + 0.5))


def test_writers_in_several_processes_never_lose_or_mix_a_line(ledger: Ledger) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(ledger.path, writer)) for writer in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = ledger.read()
    assert lines.torn == ()
    sharpes = [line.sharpe for line in lines.lines]
    assert sorted(sharpe for sharpe in sharpes if sharpe is not None) == sorted([1.0, 1.5, 2.0, 2.5, 3.0, 3.5] * 20)
    assert all(second == (first or 0.0) + 0.5 for first, second in zip(sharpes[::2], sharpes[1::2], strict=True))
    for writer_id in (1, 2, 3):
        numbers = [line.data_sha256 for line in lines.lines if line.sharpe == writer_id]
        assert numbers == [f"{writer_id}{nth:063d}" for nth in range(20)]


def test_settings_have_the_same_digest_in_any_order() -> None:
    assert settings_digest({"b": [1, 2], "a": 0.5}) == settings_digest({"a": 0.5, "b": [1, 2]})
    assert settings_digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert settings_digest({"a": 1}) != settings_digest({"a": 2})


@given(sharpe=some.floats(allow_nan=False, allow_infinity=False), note=some.text())
def test_any_ratio_and_any_note_always_come_back_the_same(sharpe: float, note: str) -> None:
    line = msgspec.structs.replace(_trial(sharpe), note=note)
    data = msgspec.json.encode(line)
    assert b"\n" not in data
    assert msgspec.json.decode(data, type=LedgerLine) == line


def test_a_trial_made_again_to_the_same_result_is_recorded_once_and_one_with_another_result_again(
    ledger: Ledger,
) -> None:
    ledger.record(_trial(0.1), _opening())
    ledger.record(_trial(0.1), _trial(0.2), _opening())
    assert [(line.kind, line.sharpe) for line in ledger.read().lines] == [
        ("trial", 0.1), ("opening", None), ("trial", 0.2),
    ]  # fmt: skip
