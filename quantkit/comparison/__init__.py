"""Metrics, drift and reports of fp32 against int8."""
