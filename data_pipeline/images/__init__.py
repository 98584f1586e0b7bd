"""Encoded images to pixels, and their perceptual hashes."""
