"""Take a trained fp32 image classifier to int8, and know what that costs."""
