"""Set before anything of this package loads onnxruntime: it would else write an id and tell its maker what runs here."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
