"""From raw data in a documented layout to shards."""
