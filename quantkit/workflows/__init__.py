"""What the commands do, as functions over a run folder; one file to a command."""
