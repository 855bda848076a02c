"""Statistics of activations: the histogram, its kernel and file, and the methods that read a range off it."""
