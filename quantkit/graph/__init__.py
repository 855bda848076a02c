"""Reading, preparing, planning and writing of ONNX models with QDQ."""
