"""The operator's interface: logs, status, commands, alarms. Nothing here makes an order."""
