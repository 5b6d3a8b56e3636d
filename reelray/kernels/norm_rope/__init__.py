"""RMSNorm over the full width and rotary position embedding of queries and keys."""
