"""From scores or masks to labels: streamed, tiled, refined."""
