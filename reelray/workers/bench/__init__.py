"""Measures layouts on the ranks of one machine: what `reelray bench` runs in every rank."""
