"""Packing captioned images into records, on one machine."""
