"""Training of the strategies' policies: PPO, walk-forward studies, reports, export to ONNX.

It first switches off the telemetry of onnxruntime, which has to happen before anything imports that library.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
