"""Training: the loop, its hooks, optimizer groups and schedules, checkpoints, processes."""
