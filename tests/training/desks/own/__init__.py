"""Tests of `training.desks.own`."""
