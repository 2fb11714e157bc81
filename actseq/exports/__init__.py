"""A trained run for other programs: ONNX, TorchScript, and repositories of Hugging Face."""
