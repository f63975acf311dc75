"""Losses: points, matching and criterion of sets of masks, and those of single methods; functions on tensors."""
