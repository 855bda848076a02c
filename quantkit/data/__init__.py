"""Images, preprocessing, calibration sets, ImageNet layouts and labels."""
