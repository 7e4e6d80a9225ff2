"""The fault campaign: many short live sessions at the loopback Alpaca, each with faults drawn from a seed.

The daemon is a real process, its policy the timetable of `tests.fixture_policy`; `docs/CHAOS.md` says how to run it.
"""
