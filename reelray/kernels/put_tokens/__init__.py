"""Keys and values of a window, copied to where attention or memory reads them."""
