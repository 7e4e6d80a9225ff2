"""Reinforcement learning: PPO, distributions, kernels, worker processes."""
