"""A window's heads and tokens, written into the memory of the ranks that want them."""
