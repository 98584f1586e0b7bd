"""Captioned scenes of coloured shapes: grammar, rendering, and the judge that reads them back."""
