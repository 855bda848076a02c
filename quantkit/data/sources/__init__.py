"""Image sources: folders, tar and zip archives, WebDataset shards, parquet, URLs, arrays and iterables."""
