"""Off-policy agents with continuous actions: SAC, TD3, their replay, their presets, an ensemble of both."""
