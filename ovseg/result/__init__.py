"""The result of segmenting one image: labels, objects, measures, pictures and formats."""
