"""Attention of blocks of queries over lists of blocks of keys."""
