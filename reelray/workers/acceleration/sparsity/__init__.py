"""Sparse self-attention: token orders, and routers that choose blocks of keys."""
