"""Sensitivity, equalization, bias correction, rounding, search."""
