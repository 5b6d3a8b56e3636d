"""A drawn world of moving shapes, and the training of a tiny video model on it."""
