"""Int8 graphs: planned, written, read."""
