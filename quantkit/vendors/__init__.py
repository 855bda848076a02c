"""File formats of vendors; nothing here knows of runs."""
