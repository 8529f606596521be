"""A relative judge for reinforcement learning: N rollouts of one task in one prompt, comparable scores out."""
