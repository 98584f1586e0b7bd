"""Many prompts to many pictures: inputs, batches, jobs that resume."""
