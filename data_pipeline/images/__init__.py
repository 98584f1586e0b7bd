"""Decoding images into pixels, and perceptual hashes of them."""
