"""The Wan2.1 family: transformer, causal video VAE, text encoder and their weight maps."""
