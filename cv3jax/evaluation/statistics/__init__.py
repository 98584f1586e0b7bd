"""Intervals, win rates, ratings, agreement and planning: arrays in, figures out, no files."""
