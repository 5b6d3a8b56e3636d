"""Durable renders: jobs that outlive every process of reelray, and go on from their last commit.

`submission` puts one into the store, `worker` makes it, `growing_media` reads what is there of it, `retention` takes
away what was kept long enough.
"""
