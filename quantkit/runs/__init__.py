"""The run folder, its records, and the results cached in it."""
