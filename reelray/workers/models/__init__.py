"""One folder per model family: config, maths, weight map."""
