"""Datasets of records: schema, files, feature caches."""
