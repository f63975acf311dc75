"""The ground under everything: what knows nothing of images, words or models."""
