"""Numbers read as they are: no sign without a value, no plural of one, no figure where none is known."""

from __future__ import annotations

from training.evidence.wording import aligned, counted, listed, number, percent, share


def test_nothing_has_no_sign_and_a_loss_a_real_minus() -> None:
    assert percent(0.0) == percent(-0.00001) == "0.00 %"
    assert percent(0.0123) == "+1.23 %"
    assert percent(-0.0123, 1) == "−1.2 %"
    assert number(-0.0001) == "0.00"
    assert number(-1234.5, 1) == "−1,234.5"


def test_what_is_not_known_is_a_dash() -> None:
    assert {percent(None), share(None), number(None)} == {"–"}


def test_one_thing_is_never_several() -> None:
    assert [counted(count, "trade") for count in (0, 1, 2, 1000)] == ["0 trades", "1 trade", "2 trades", "1,000 trades"]


def test_a_list_ends_with_its_last_word() -> None:
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_with_their_text() -> None:
    rows = [("", "trades"), ("as configured", "7"), ("a", "")]
    assert aligned(rows) == ["               trades", "as configured  7", "a"]
    assert aligned(rows, right=True) == ["               trades", "as configured       7", "            a"]
