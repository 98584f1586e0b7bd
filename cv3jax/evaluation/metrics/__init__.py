"""The metrics of pictures, one file per metric; `registry.open_metric` opens one by its name."""
