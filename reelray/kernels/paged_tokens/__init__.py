"""Keys and values of latent frames, between pages and one tensor, all layers at once."""
