"""`rltrader-simulator`: what cannot be is refused with the cure."""

from __future__ import annotations

import socket
import sys

import pytest

from simulator.__main__ import main


def test_a_used_port_names_the_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["rltrader-simulator", "--port", str(port)])
        assert main() == 2
    expected = f"rltrader-simulator: port {port}: address already in use: choose another with --port"
    assert expected in capsys.readouterr().err
