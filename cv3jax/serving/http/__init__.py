"""The server over HTTP: OpenAI's images API, jobs, and the page."""
