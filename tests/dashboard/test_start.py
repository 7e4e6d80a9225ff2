"""The dashboard as a command: what it refuses to start for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from daemon.dashboard.__main__ import main


def test_a_port_in_use_is_named_with_the_option_that_chooses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--state-dir", str(tmp_path), "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"rltrader-dashboard: port {port}: Address already in use: choose another with --port, or 0 for a free one\n"
    )
