"""The words every room shares: errors and plain dataclasses. No torch, no ray, nothing of ours below it."""
