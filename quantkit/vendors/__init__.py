"""File formats of vendors, independent of runs."""
