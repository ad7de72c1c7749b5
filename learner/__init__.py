"""Networks, losses, the store and the PPO update: everything that has weights.

Knows gymnasium spaces; knows nothing of processes, files or the command line. Letters in shapes: N envs,
G rows in one message, T steps, S all steps of the batch, E ended episodes, O observation shape, A action
shape (`()` for Discrete).
"""
