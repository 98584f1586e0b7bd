"""Making training batches from records."""
