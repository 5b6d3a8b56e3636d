"""A clock of events that drives the fleet: the same decisions as in production, without engines."""
