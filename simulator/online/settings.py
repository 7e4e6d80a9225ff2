"""How the desk of the show is set, and the command lines of its processes."""

from __future__ import annotations

from pathlib import Path

from simulator.clock import SimClock
from simulator.serving import Serving

MODEL = Path(__file__).with_name("model.yaml")
SYMBOLS = ("SPY", "QQQ", "IWM", "DIA")
DESK, STRATEGY, CASH = "learner", "online_dqn", 100_000
FIRST, HISTORY = "2024-01-02", 31  # the first session, and how many are recorded history
LEARN, CARD, SHADOW, CANARY = 5, 8, 2, 1  # sessions: before a version is taken, of its card, and of the ladder's steps
PARTS = 4  # steps of the canary
SESSIONS = LEARN + CARD + SHADOW + PARTS * CANARY
NEGATED = LEARN + CARD - 2  # after this session the card of the negated version has eight of the champion's
EPSILON = 0.05


class DeskAt:
    """The desk in `folder`: its configuration, and the arguments of the processes next to it."""

    def __init__(self, folder: Path, redis_socket: Path) -> None:
        self._folder, self._redis = folder, f"unix://{redis_socket}"
        self.history = folder / "history.csv"

    def tables(self, clock: SimClock, server: Serving) -> dict[str, dict[str, object]]:
        """The daemon's configuration at this server."""
        urls = ("trading_url", "data_url", "stream_url", "trade_stream_url", "option_stream_url")
        return {
            **self.own_tables(),  # nights cost less with fewer reports; they count as lost after broker.blind_min
            "alpaca": {**{name: getattr(server, name) for name in urls}, "ping_s": 600, "report_every_s": 150},
            "clock": clock.settings(),
        }

    def own_tables(self) -> dict[str, dict[str, object]]:
        """The part of it that no server decides: of the ladder nothing but how long shadow and canary last."""
        return {
            "desk": {"name": DESK, "strategy": STRATEGY, "symbols": list(SYMBOLS), "model_config": str(MODEL)},
            "paths": {"state_dir": str(self._folder / "state"), "models_dir": str(self._folder / "store")},
            "feed": {"name": "sip", "options": "indicative"},
            "log": {"format": "json"},
            "policy": {"version": "current", "wait_for_first": True, "poll_s": 300},
            "exploration": {"kind": "epsilon", "epsilon": EPSILON},
            "ladder": {"promotion": "automatic", "shadow_sessions": SHADOW, "canary_sessions": CANARY},
            "risk": {  # four shares, each traded every few minutes
                "cooldown_trade_s": 0,
                "cooldown_loss_s": 0,
                "consecutive_losses_max": 1000,
                "orders_per_minute": 40,
                "orders_per_day": 10_000,
            },
        }

    def trainer(self) -> list[object]:
        """Arguments of `rltrader-trainer`."""
        given: list[object] = ["--desk", DESK, "--redis", self._redis, "--models-dir", self._folder / "store"]
        given += ["--own-dir", self._folder / "trainer", *self._model(), "--symbols", *SYMBOLS, "--preset", "quick"]
        given += ["--publish-every", LEARN, "--card-sessions", CARD, "--checkpoint-every", 2000]
        return [*given, "--log-format", "json"]

    def publisher(self) -> list[object]:
        """Arguments of `rltrader-publisher`."""
        folders: list[object] = ["--state-dir", self._folder / "state", "--own-dir", self._folder / "publisher"]
        return [*folders, "--redis", self._redis, "--log-format", "json"]

    def dashboard(self, port: int) -> list[object]:
        """Arguments of `rltrader-dashboard`."""
        return ["--state-dir", self._folder / "state", "--models-dir", self._folder / "store", "--port", port]

    def planter(self, kind: str, parent: str, stream: str) -> list[object]:
        """Arguments of `training.online.planted`."""
        given: list[object] = [kind, "--parent", parent, "--models-dir", self._folder / "store", *self._model()]
        given += ["--own-dir", self._folder / "trainer", "--state-dir", self._folder / "state"]
        return [*given, "--stream", stream]

    def _model(self) -> list[object]:
        return ["--bars", self.history, "--model-config", MODEL]
