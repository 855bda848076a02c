"""Execution of models: sessions, tapped tensors, partitions and shared prefixes."""
