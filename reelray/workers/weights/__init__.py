"""Weight files: read tensor by tensor into their final place, never a second copy in memory."""
