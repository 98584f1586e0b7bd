"""New captions from a vision model behind an OpenAI-compatible endpoint (CogView3 §3.1)."""
