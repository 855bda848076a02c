"""Passes that rewrite the fp32 graph without changing its results; one module per pass."""
