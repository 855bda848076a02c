"""Predictions, paired statistics, drift, gates, and diagnosis of labels and preprocessing."""
