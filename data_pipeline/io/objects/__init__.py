"""Runs whose files are kept in an object store, which has no rename and no locks."""
