"""Official checkpoints of trained parts, read strictly into our modules; one file per source."""
