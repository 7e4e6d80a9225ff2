"""The SQL view `trades` of a journal: round trips from flat to flat, made of the table `round_trips`."""

from __future__ import annotations

import sqlite3

NAME = "trades"
SELECT = """SELECT t.opened_ns, t.symbol, iif(t.entered < 0, 'short', 'long') AS side, abs(t.entered) AS quantity,
  t.entered + t.left_again AS held, t.multiplier, t.opened_ns AS entered_ns,
  iif(t.entered + t.left_again = 0, t.left_ns, NULL) AS left_ns,
  abs(t.entered_usd / nullif(t.entered * t.multiplier, 0)) AS entry_price,
  abs(t.left_usd / nullif(t.left_again * t.multiplier, 0)) AS exit_price,
  abs(t.entered_usd) AS entered_usd, abs(t.left_usd) AS left_usd,
  round(iif(t.entered + t.left_again = 0, t.realized_usd, t.now_usd), 6) AS pnl_usd,
  100 * iif(t.entered + t.left_again = 0, t.realized_usd, t.now_usd) / nullif(abs(t.entered_usd), 0) AS pnl_pct,
  round(t.realized_usd, 6) AS realized_usd, round(t.fees_usd, 6) AS fees_usd,
  round(t.worst_usd, 6) AS worst_usd, 100 * t.worst_usd / nullif(abs(t.entered_usd), 0) AS worst_pct,
  round(t.best_usd, 6) AS best_usd, 100 * t.best_usd / nullif(abs(t.entered_usd), 0) AS best_pct,
  t.bars, t.fills, t.why_entered, iif(t.entered + t.left_again = 0, t.why_left, NULL) AS why_left,
  t.entry_decision, iif(t.entered + t.left_again = 0, t.exit_decision, NULL) AS exit_decision,
  coalesce(d.resolved, d.action) AS entry_action, d.confidence AS entry_confidence,
  iif(t.entered + t.left_again = 0, coalesce(e.resolved, e.action), NULL) AS exit_action
FROM round_trips AS t LEFT JOIN decisions AS d ON d.decision = t.entry_decision
LEFT JOIN decisions AS e ON e.decision = t.exit_decision"""
VIEW = f"CREATE VIEW {NAME} AS\n{SELECT}"


def renew_view(db: sqlite3.Connection) -> None:
    """Create the view, or replace one of another release."""
    found = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'view' AND name = ?", (NAME,)).fetchone()
    if found is None or found[0] != VIEW:
        db.execute(f"DROP VIEW IF EXISTS {NAME}")
        db.execute(VIEW)
