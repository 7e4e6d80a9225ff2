"""What operators see and command: logs, status, commands, alarms. Nothing here makes an order."""
