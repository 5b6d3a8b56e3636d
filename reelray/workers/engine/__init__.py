"""The engine: a leader that batches and ranks that follow its step plans."""
