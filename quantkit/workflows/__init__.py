"""The workflows behind the commands, as functions over a run folder; one module per command."""
