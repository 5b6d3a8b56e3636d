"""Files that callers bring along: what they are, how long they are kept, and where else they may come from."""
