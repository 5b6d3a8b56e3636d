"""Short programs that use the package; run them from the repository root with `python -m examples.…`."""
