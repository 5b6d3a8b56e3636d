"""LayerNorm with scale and shift, and gated residuals, per group of tokens."""
