"""A client of /v1/chat/completions of any OpenAI-compatible server, with bounds on all it reads."""
