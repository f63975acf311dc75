"""Losses, one file per method; pure functions on tensors."""
