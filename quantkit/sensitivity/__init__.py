"""Sensitivity of layers to int8."""
