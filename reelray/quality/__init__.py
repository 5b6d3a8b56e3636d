"""Fidelity metrics that need no foreign weights. Imports none of the other rooms."""
