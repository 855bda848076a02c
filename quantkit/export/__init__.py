"""Networks in torch, and their way to ONNX."""
