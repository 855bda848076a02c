"""Facts about an ONNX graph: values, bounds, roles, multiply-adds."""
