"""What several clients of a data stream want together, and how many symbols they may have."""

from __future__ import annotations

from daemon.alpaca_api.data_stream import Channels, DataSessions, DataStreamClient
from daemon.alpaca_api.messages import DataMessage
from tests.alpaca_api.serving import NOW_NS, Two, logged_in, served
from tests.support.simulator.stream_clients import error, eventually

PATH = "/v2/iex"


def bars(*symbols: str) -> dict[str, object]:
    return {"action": "subscribe", "bars": list(symbols)}


async def test_what_all_clients_want_is_told_once_for_each_change_and_shrinks_when_one_leaves() -> None:
    told: list[tuple[str, Channels]] = []
    hub = DataSessions(Two(), DataStreamClient, on_wanted=lambda path, wanted: told.append((path, wanted)))
    async with served(hub.routes()) as address, logged_in(f"ws://{address}{PATH}", "PKONE") as one:
        await one.ask(bars("SPY"))
        async with logged_in(f"ws://{address}{PATH}", "PKTWO") as two:
            await two.ask(bars("SPY"))  # nothing new
            await two.ask({"action": "subscribe", "quotes": ["AAPL"]})
            await one.ask({"action": "unsubscribe", "bars": ["SPY"]})  # the other still has it
            both = {"bars": frozenset({"SPY"}), "quotes": frozenset({"AAPL"})}
            assert told == [(PATH, {"bars": frozenset({"SPY"})}), (PATH, both)]
            assert hub.wanted(PATH) == both

        async def left() -> bool:
            return told[2:] == [(PATH, {})]

        await eventually(left)


async def test_symbols_beyond_the_limit_of_all_clients_are_refused_with_405_and_change_nothing() -> None:
    told: list[Channels] = []
    hub = DataSessions(Two(), DataStreamClient, limits={PATH: 3}, on_wanted=lambda _, wanted: told.append(wanted))
    async with (
        served(hub.routes()) as address,
        logged_in(f"ws://{address}{PATH}", "PKONE") as one,
        logged_in(f"ws://{address}{PATH}", "PKTWO") as two,
    ):
        await one.ask(bars("SPY", "AAPL"))
        await two.ask(bars("SPY", "KO"))  # three symbols together
        before = list(told)
        assert await two.ask(bars("MSFT")) == error(405, "symbol limit exceeded")
        assert await two.ask(bars("*")) == error(405, "symbol limit exceeded")
        assert (await two.ask({"action": "subscribe", "quotes": ["SPY"]}))[0]["bars"] == ["KO", "SPY"]
        assert told[: len(before)] == before
        assert hub.wanted(PATH)["bars"] == {"SPY", "AAPL", "KO"}
        await one.ask({"action": "unsubscribe", "bars": ["AAPL"]})
        assert (await two.ask(bars("MSFT")))[0]["bars"] == ["KO", "MSFT", "SPY"]


async def test_a_message_goes_to_who_subscribed_to_it_on_its_path_alone() -> None:
    hub = DataSessions(Two(), DataStreamClient)
    async with (
        served(hub.routes()) as address,
        logged_in(f"ws://{address}{PATH}", "PKONE") as one,
        logged_in(f"ws://{address}/v2/sip", "PKTWO") as elsewhere,
    ):
        await one.ask(bars("SPY"))
        await elsewhere.ask(bars("SPY", "KO"))
        hub.publish(PATH, [DataMessage("b", symbol, NOW_NS, {"c": 1.0}) for symbol in ("SPY", "KO")])
        hub.publish("/v2/sip", [DataMessage("b", "KO", NOW_NS, {"c": 2.0})])
        assert [row["S"] for row in await one.hear()] == ["SPY"]
        assert [(row["S"], row["c"]) for row in await elsewhere.hear()] == [("KO", 2.0)]


async def test_garbage_is_answered_with_400_and_disturbs_nobody() -> None:
    hub = DataSessions(Two(), DataStreamClient)
    async with (
        served(hub.routes()) as address,
        logged_in(f"ws://{address}{PATH}", "PKONE") as one,
        logged_in(f"ws://{address}{PATH}", "PKTWO") as two,
    ):
        await two.ask(bars("SPY"))
        garbage: list[object] = [{"action": ["auth"]}, {"action": {}}, 7, {"action": "subscribe", "bars": "SPY"}]
        for message in garbage:
            assert await one.ask(message) == error(400, "invalid syntax")
        await one.socket.send("[" * 100_000)
        assert await one.hear() == error(400, "invalid syntax")
        hub.publish(PATH, [DataMessage("b", "SPY", NOW_NS, {"c": 1.0})])
        assert [row["S"] for row in await two.hear()] == ["SPY"]
