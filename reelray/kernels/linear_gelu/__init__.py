"""A linear layer with tanh-GELU behind it."""
