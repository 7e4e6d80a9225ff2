"""Clocks: the guarded host clock, virtual time, time zones and schedules."""
