"""Q-learning with a few actions: DQN from a replay, PQN without one, and a DQN that goes on learning from a stream."""
