"""Sessions: tapping tensors during a pass, and evaluating models."""
