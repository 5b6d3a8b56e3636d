"""`reelray serve --config FILE`: what such a file says, and what would be started."""
