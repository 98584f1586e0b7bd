"""Many prompts to many pictures: inputs, batches, and jobs that resume."""
