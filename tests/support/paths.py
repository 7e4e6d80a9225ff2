"""Where things stand in the repository, for tests of every folder."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURE_MODELS = REPOSITORY / "tests" / "fixture_policy" / "onnx_models"
