"""Export to ONNX, reference distributions, import of Stable-Baselines3 models."""
