"""Rewrites of the fp32 graph that keep what it computes; one pass to a file."""
