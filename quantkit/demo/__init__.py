"""The whole chain on what ships in the package."""
