"""What runs beside a GPU: models, samplers, recipes, checkpoints, the VAE, the engine."""
