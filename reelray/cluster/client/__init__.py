"""Videos from a server: the other side of `reelray.cluster.gateway`."""
