"""Analysis of ONNX graphs: values, bounds, roles, multiply-adds."""
