"""Statistics of activations: histogram, kernel, file format, and the methods that compute ranges."""
