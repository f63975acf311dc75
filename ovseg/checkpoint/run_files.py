"""What the files in the folder of a training are called; it imports nothing, so that names can be looked up quickly."""

LAST = "last.pt"
"""The state of the training, which goes on from it; until there is a model it stands for one."""
MODEL, CONFIG, CLASSES = "model.safetensors", "config.yaml", "classes.json"
"""What `ovseg.load(folder)` takes: the trained part, how it is built, and the words that it has learnt."""
EARLIER = "trained_before.json"
"""Hashes of images that the weights with which a run has started were trained on; of a shared model: of all images."""
