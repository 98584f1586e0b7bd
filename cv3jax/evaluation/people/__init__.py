"""Blind votes of people on pairs of pictures: the page, the votes, and what they say."""
