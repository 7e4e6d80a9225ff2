"""Messages of the data streams as bytes: their keys, the packed time and the frame.

Expected values: recorded messages and the msgpack specification.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from daemon.alpaca_api import messages as stream_messages
from tests.support.simulator.stream_clients import SECOND_NS, connected, serving


@pytest.mark.parametrize(("channel", "kind"), [("quotes", "q"), ("trades", "t"), ("bars", "b")])
async def test_messages_have_the_keys_of_recorded_ones_with_the_type_first(
    data_dir: Path, channel: str, kind: str
) -> None:
    lines = (data_dir / "alpaca_stream_samples.jsonl").read_text().splitlines()
    frames = [json.loads(line)["frame"] for line in lines]
    sample = next(row for frame in frames if isinstance(frame, list) for row in frame if row["T"] == kind)
    async with serving() as server, connected(server.stream_url) as socket:
        await socket.hear()
        await socket.log_in()
        await socket.ask({"action": "subscribe", channel: ["SPY"]})
        message = (await socket.hear())[0]
    assert list(message) == list(sample)
    assert {key: type(message[key]) for key in message if key not in "aspbshlcv"} == {
        key: type(sample[key]) for key in sample if key not in "aspbshlcv"
    }


@pytest.mark.parametrize(
    ("time_ns", "packed"),
    [
        (1 * SECOND_NS, "d6ff00000001"),  # timestamp 32
        (1 * SECOND_NS + 1, "d7ff0000000400000001"),  # timestamp 64: 30 bits of nanoseconds, 34 of seconds
        ((1 << 34) * SECOND_NS + 1, "c70cff000000010000000400000000"),  # timestamp 96
    ],
)
def test_a_time_is_packed_as_the_msgpack_specification_has_it(time_ns: int, packed: str) -> None:
    assert msgspec.msgpack.encode(stream_messages.timestamp(time_ns)).hex() == packed


@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_a_frame_of_encoded_messages_is_one_array(count: int) -> None:
    rows = [{"T": "b", "n": number} for number in range(count)]
    packed = stream_messages.frame([msgspec.msgpack.encode(row) for row in rows], msgpack=True)
    text = stream_messages.frame([msgspec.json.encode(row) for row in rows], msgpack=False)
    assert msgspec.msgpack.decode(packed) == msgspec.json.decode(text) == rows
