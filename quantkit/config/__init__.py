"""What a run is made of, as typed and validated data: pipelines, methods, and the project file."""
