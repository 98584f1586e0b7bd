"""Building datasets from shards of captioned images: filters, deduplication and a yield report."""
