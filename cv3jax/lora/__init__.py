"""Fine-tuning on a few pictures, and the adapters that it trains."""
