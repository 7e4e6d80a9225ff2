"""The store of policies for years of life, and the model configuration of the one that trades by the minute."""

from __future__ import annotations

from pathlib import Path

STORE = Path(__file__).parent / "onnx_models"
FIVE_MINUTES = Path(__file__).with_name("five_minutes.yaml")  # of online_dqn: its bars have five minutes
BY_MINUTE = ("SPY", "QQQ")  # what online_dqn trades
