"""The model configuration: what a file may hold, what a mistake is answered with, and what the digest covers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from strategies.online_dqn.model_config import SHIPPED, TEXT_MAX, ModelConfig, ModelConfigError, of_text
from strategies.online_dqn.state_vector import feature_names, history_bars, parse, read_file, shipped

RSI = "{name: RSI, scale: {center: 50, divide_by: 20}}"


def read(indicators: str = RSI, more: str = "") -> str:
    return f"version: 1\nwindow: 3\nindicators: [{indicators}]\n{more}"


def parsed(indicators: str = RSI, more: str = "") -> ModelConfig:
    return parse(read(indicators, more).encode(), "m.yaml")


WRONG = {
    "an unknown function": ("{name: RSSI}", "", r"m.yaml: indicators\[0\].name: 'RSSI' is unknown: did you mean RSI\?"),
    "an unknown key": ("{name: RSI, scal: 3}", "", r"indicators\[0\]: 'scal' is unknown: did you mean scale\?"),
    "a key of the file": (RSI, "widow: 3", "the file: 'widow' is unknown: did you mean window"),
    "a parameter": ("{name: RSI, parameters: {timeperod: 3}}", "", "'timeperod' is unknown: did you mean timeperiod"),
    "a parameter's value": ("{name: RSI, parameters: {timeperiod: 0}}", "", "RSI refuses {'timeperiod': 0}"),
    "a fraction": ("{name: RSI, parameters: {timeperiod: 3.5}}", "", "timeperiod of RSI is 3.5, expected a whole"),
    "an input": ("{name: RSI, inputs: [clos]}", "", "'clos' is unknown: did you mean close"),
    "too many inputs": ("{name: RSI, inputs: [close, open]}", "", "RSI takes 1 inputs, found close, open"),
    "an output": ("{name: STOCH, output: slowg}", "", "'slowg' is unknown: did you mean slow[kd]"),
    "no output": ("{name: STOCH}", "", "STOCH has the outputs slowk, slowd: name one"),
    "a portfolio field": (RSI, "portfolio: [positon]", "portfolio: 'positon' is unknown: did you mean position"),
    "a field twice": (RSI, "portfolio: [age, age]", "portfolio names one twice"),
    "a head": (RSI, "heads: {risc: {bars: 3}}", "heads: 'risc' is unknown: did you mean risk"),
    "a number out of bounds": (RSI, "heads: {risk: {bars: 0}}", "heads.risk.bars is 0: Expected `int` >= 1"),
    "a word for a number": (RSI, "scaling: {clip: five}", "scaling.clip is 'five': Expected `float`, got `str`"),
    "a bar of seven minutes": (RSI, "bar_minutes: 7", "bar_minutes is 7, expected 1 or 2 or .* 60: did you mean 6"),
    "a scale": (
        "{name: RSI, scale: {by: distence}}",
        "",
        r"indicators\[0\].scale.by is 'distence', .* mean distance\?",
    ),
    "no name": ("{scale: {divide_by: 20}}", "", r"indicators\[0\] has no name: add it"),
    "no number": ("{name: RSI, scale: {center: .nan}}", "", r"indicators\[0\].scale.center is nan, expected a finite"),
    "what is never a number": ("{name: ACOS}", "", r"\(ACOS\) is no number on usual prices"),
    "a key twice": (RSI, "window: 4", "the key 'window' stands twice"),
    "an indicator twice": (f"{RSI}, {RSI}", "", r"RSI\(14\) stands twice"),
    "a price": ("{name: SMA, scale: {divide_by: 200}}", "", "moves with the level of prices or volumes: scale it"),
    "a volume": ("{name: SMA, inputs: [volume], scale: {divide_by: 20000}}", "", "moves with the level of prices or"),
    "what is always clipped": ("{name: RSI}", "", "lies beyond the clip of 5 nearly always"),
    "too long a history": ("{name: ROCP, parameters: {timeperiod: 2000}}", "", "need 8002 bars before the open"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_names_the_key_its_value_and_the_nearest_name(case: str) -> None:
    indicators, more, expected = WRONG[case]
    with pytest.raises(ModelConfigError, match=expected):
        parsed(indicators, more)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"version: 2\nwindow: 3\nindicators: []", "version is 2, expected 1"),
        (b"version: 1\nwindow: 3", "the file has no indicators: add it"),
        (b"- 3", "holds list, expected keys and values"),
        (b"a: [", "is no YAML"),
        (b"!!python/object/apply:os.system [ls]", "is no YAML"),
        (b"#" * (TEXT_MAX + 1), "expected at most 65536"),
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(ModelConfigError, match=expected):
        parse(data, "m.yaml")


def test_a_reason_lets_a_feature_move_with_the_level() -> None:
    result = parsed("{name: SMA, scale: {divide_by: 200}, because: a bond near par}")
    assert result.indicators[0].because == "a bond near par"


def test_a_candlestick_needs_no_scale_but_a_divisor() -> None:
    assert feature_names(parsed("{name: CDLDOJI, scale: {divide_by: 100}}")) == ("CDLDOJI",)


def test_what_is_left_out_is_what_talib_has_by_default() -> None:
    text = (
        "{name: RSI, inputs: [close], parameters: {timeperiod: 14}, output: real, scale: {center: 50, divide_by: 20}}"
    )
    assert parsed(text) == parsed()
    assert parsed(text).digest == parsed().digest


def test_the_digest_covers_everything_but_the_symbols() -> None:
    base = parsed().digest
    assert parsed(more="symbols: [QQQ, SPY]").digest == base
    variants = ("bar_minutes: 5", "portfolio: []", "scaling: {clip: 4}", "heads: {risk: {bars: 2}}")
    digests = {base, *(parsed(more=other).digest for other in variants)}
    assert len(digests) == 1 + len(variants)
    assert parsed(RSI.replace("50", "51")).digest != base


def test_the_canonical_text_reads_back_as_the_same_configuration() -> None:
    model_config = shipped()
    assert of_text(model_config.text) == msgspec.structs.replace(model_config, symbols=("SPY",))
    assert of_text(model_config.text).text == model_config.text
    assert feature_names(of_text(model_config.text)) == feature_names(
        model_config
    )  # whatever the order of the parameters
    with pytest.raises(ModelConfigError, match="unreadable"):
        of_text("{")


def test_history_is_four_look_backs_and_the_window() -> None:
    """RSI(14) looks 14 back; a z-score over 30 needs 29 more: 2 + 4 * 14, and 2 + 4 * 14 + 29."""
    assert history_bars(parsed()) == 58
    assert history_bars(parsed("{name: RSI, scale: {by: zscore, window: 30}}")) == 87


def test_a_file_is_read_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert read_file(SHIPPED) == shipped()
    (long := tmp_path / "long.yaml").write_bytes(b"#" * (TEXT_MAX + 1))
    with pytest.raises(ModelConfigError, match=str(long)):
        read_file(long)
    for unreadable in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ModelConfigError, match=f"{unreadable} cannot be read .*: name a readable YAML file"):
            read_file(unreadable)
