"""ONNX models read, prepared, planned and written with QDQ."""
