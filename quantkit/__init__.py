"""Take a trained fp32 image classifier to int8, and know what that costs."""

__version__ = "0.1.0"
