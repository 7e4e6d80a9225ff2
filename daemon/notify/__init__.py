"""Notifications: what happened on a desk, to Telegram, mail and other services; a separate process."""
