"""Engines of the models that are served: how many, when they are loaded, and which makes what."""
