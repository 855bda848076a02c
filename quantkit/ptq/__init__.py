"""Post-training quantization techniques, one to a file."""
