"""Readers of captioned images: folders, tables, tars and parquet files."""
