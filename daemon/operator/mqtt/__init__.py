"""MQTT telemetry and signed remote commands."""
