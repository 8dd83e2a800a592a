"""Samples, converters, decoding, shards and mixtures."""
