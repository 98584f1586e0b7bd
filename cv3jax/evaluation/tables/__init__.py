"""Tables of several reports beside figures that others published."""
