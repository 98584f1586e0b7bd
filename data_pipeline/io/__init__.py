"""Files, flags, locks and errors: both packages use this folder, and it uses neither."""
