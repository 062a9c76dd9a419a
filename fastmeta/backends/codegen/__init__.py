"""Device text with a plan's shapes in it: what `fastmeta.backends.cuda` and `fastmeta.backends.cupy` compile for one plan."""
