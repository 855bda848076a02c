"""The steps of the command line as functions of the same words."""
