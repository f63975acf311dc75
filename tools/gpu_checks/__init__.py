"""What is checked on the day a GPU is there: operators, goldens, every model once, and absolute times."""
