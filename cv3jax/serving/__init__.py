"""Serving: many users share one cascade, and each picture is the one it would have been alone."""
