"""A regular package, so that it is found before the `tests` that other distributions install."""
