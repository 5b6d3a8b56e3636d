"""What a forward may leave out, and what stands for it."""
