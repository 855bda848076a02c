"""Configuration as validated data: preprocessing pipelines, calibration methods, the project file."""
