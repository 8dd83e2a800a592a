"""One module per family of reference cases: our figures in the shape of the reference's. See ``..oracle``."""
