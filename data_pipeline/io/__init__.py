"""Files, flags, locks and errors: the ground that both packages stand on."""
