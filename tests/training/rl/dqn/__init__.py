"""Tests of DQN and PQN."""
