"""Preflight: every clip of a data set decoded once, what is odd about it written down, what is unusable listed."""
