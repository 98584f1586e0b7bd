"""Scores of pictures: prompt following of scenes, PSNR, and distances."""
