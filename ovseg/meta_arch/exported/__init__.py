"""Models whose network runs from a file of `ovseg export`, without the code and the weights that it was made of."""
