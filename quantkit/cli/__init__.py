"""The command line: parses arguments, calls workflows, prints results and sets the exit code."""
