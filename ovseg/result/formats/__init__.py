"""Output formats: one small writer a file."""
