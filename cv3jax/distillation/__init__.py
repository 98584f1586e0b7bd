"""Progressive distillation: the loss, the rounds, and what they are judged by."""

# what a student is taught, each with the weighting of its error; None: of none
TARGETS = {"landing": None, "x0": "truncated", "x0_root_snr": "root_snr"}
