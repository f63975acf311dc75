"""Images in, datasets and preprocessing."""
