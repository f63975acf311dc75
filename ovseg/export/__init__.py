"""Models as files for other programs: ONNX, `torch.export`, and packages that are compiled ahead of time."""
