"""Post-training quantization techniques, one per module."""
