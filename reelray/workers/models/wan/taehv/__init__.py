"""The tiny video decoder of the TAEHV family: approximate pictures of the same latents for a small part of the cost."""
