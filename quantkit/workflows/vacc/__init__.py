"""What only the VACC target has: build files of a run, compiler simulator, option search, error breakdown."""
