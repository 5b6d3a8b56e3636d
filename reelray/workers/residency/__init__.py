"""Where the blocks of a network are while they do not compute, and how they come to where they do."""
