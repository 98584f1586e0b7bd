"""Captioned images to records, on one machine."""
