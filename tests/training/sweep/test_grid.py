"""The cells of a sweep: ranges and lists by the type of each rule, and what is refused with its cure."""

from __future__ import annotations

import pytest

from training.studies.grid import Axis, axis_of, cells_of


def test_values_are_a_range_or_a_list_in_the_type_of_the_rule() -> None:
    assert axis_of("risk.confidence_min=0.4:0.8:5") == Axis("risk.confidence_min", (0.4, 0.5, 0.6, 0.7, 0.8))
    assert axis_of("sizing.max_contracts=1:5:3").values == (1, 3, 5)
    assert axis_of("sizing.max_contracts=1, 10").values == (1, 10)
    assert axis_of("paper.commission_usd=0,0.65").values == ("0", "0.65")
    assert axis_of("basket.auction=true,false").values == (True, False)
    assert axis_of("contracts.strike=nearest,delta").values == ("nearest", "delta")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("risk.confidence_mim=0.4,0.5", r"did you mean risk\.confidence_min\?"),
        ("paper.cash_usd=1,2", "is no rule that a sweep can change"),
        ("broker.blind_min=1,2", "is no rule that a sweep can change"),
        ("sizing.max_contracts=1:2:4", r"found '1\.333333333', expected whole numbers"),
        ("risk.confidence_min=0.4:0.8:1", "expected two values at least"),
        ("risk.confidence_min=low:0.8:2", r"expected LOW:HIGH:COUNT, such as 0\.4:0\.8:5"),
        ("risk.confidence_min=0.5,0.6,0.50", "a value is there twice"),
        ("paper.commission_usd=1,1.0", "a value is there twice"),
        ("risk.confidence_min=0.5:0.5:3", "a value is there twice"),
        ("risk.confidence_min=0.4:0.8", "found '0.4:0.8', expected numbers; a range is LOW:HIGH:COUNT"),
        ("basket.auction=yes", "found 'yes', expected true or false"),
    ],
)
def test_what_cannot_be_swept_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        axis_of(text)


def test_cells_are_all_combinations_and_not_too_many() -> None:
    one, other = Axis("sizing.max_contracts", (1, 2)), Axis("risk.confidence_min", (0.5, 0.6))
    assert [tuple(cell.values()) for cell in cells_of((one, other))] == [(1, 0.5), (1, 0.6), (2, 0.5), (2, 0.6)]
    with pytest.raises(ValueError, match="expected each key once"):
        cells_of((one, one))
    with pytest.raises(ValueError, match="2,601 cells are too many: expected at most 2,500"):
        cells_of((Axis("a", tuple(range(51))), Axis("b", tuple(range(51)))))
