"""The trading daemon."""

import os

# before any module here loads onnxruntime, which otherwise sends usage data to its maker
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
