"""Heads that propose masks, and the classifier by which all of them compare with words."""
