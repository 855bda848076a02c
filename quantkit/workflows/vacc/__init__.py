"""Workflows for the VACC target: build files of a run, compiler simulator, option search, error breakdown."""
