from __future__ import annotations

import math

import pytest

from daemon.brokers.alpaca.rest.client import json_of


def test_a_body_is_its_json_value_and_an_empty_one_is_none() -> None:
    assert json_of(b'{"qty": "1.50", "n": 12345678901234567890123, "p": 0.1}') == {
        "qty": "1.50",
        "n": 12345678901234567890123,
        "p": 0.1,
    }
    assert json_of(b"") is None


def test_a_number_that_json_has_not_spoils_no_other_row() -> None:
    rows = json_of(b'[{"p": NaN}, {"p": 1e400}, {"p": 2.5}]')
    assert isinstance(rows, list)
    assert math.isnan(rows[0]["p"])
    assert rows[1:] == [{"p": math.inf}, {"p": 2.5}]


@pytest.mark.parametrize("body", [b"<html>", b'{"p": ', b" "])
def test_what_is_no_json_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="Expecting"):
        json_of(body)
