"""Set before anything of this package loads onnxruntime, which would else tell its maker what runs here."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
