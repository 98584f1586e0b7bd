"""Progressive distillation: the loss, the rounds, and how they are judged."""

# what a student is trained towards → the weighting of its error, None for no weighting
TARGETS = {"landing": None, "x0": "truncated", "x0_root_snr": "root_snr"}
