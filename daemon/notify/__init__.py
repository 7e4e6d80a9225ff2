"""Notifications about a desk to Telegram, mail and other services, sent by a separate process."""
