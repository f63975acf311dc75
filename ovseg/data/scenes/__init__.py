"""Scenes: our own data set, composed from named cut-outs over photographs and textures."""
