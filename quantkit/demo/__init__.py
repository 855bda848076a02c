"""The demo workflow on bundled data."""
