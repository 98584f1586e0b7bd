"""Shards of captioned images → filtered, deduplicated records, on Apache Beam."""
