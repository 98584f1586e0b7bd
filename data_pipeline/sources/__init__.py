"""Where captioned images come from: folders, tars, parquet."""
