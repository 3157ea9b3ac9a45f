"""From webdataset shards to batches."""
