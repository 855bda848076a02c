"""Image sources, preprocessing, calibration sets, ImageNet layouts and labels."""
