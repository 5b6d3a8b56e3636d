"""Pure decisions. No torch, no ray, no I/O; the clock is injected."""
