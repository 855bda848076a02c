"""Where models run: sessions, reading tensors during a pass, partitions and shared prefixes."""
