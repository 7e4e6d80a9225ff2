"""The operator's side: commands, telemetry, metrics, alarms, models that change. Nothing in here can make an order."""
