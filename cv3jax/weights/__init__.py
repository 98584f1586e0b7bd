"""Names of released checkpoints ↔ ours, both ways. The torch layout (NCHW, [out, in]) ends here."""
