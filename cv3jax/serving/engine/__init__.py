"""The engine: many orders share a device, one unit of rows after the other."""
