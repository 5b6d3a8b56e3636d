"""Dense attention over [B, S, N, D] tensors."""
