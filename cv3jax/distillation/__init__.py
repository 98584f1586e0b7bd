"""Progressive distillation: the loss, the rounds, and what they are judged by."""
