"""Schedules, solvers, guidance and noise."""
