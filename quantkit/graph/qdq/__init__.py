"""Planning, writing and reading of int8 graphs with QDQ nodes."""
