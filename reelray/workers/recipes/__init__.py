"""Recipes as data: the shipped presets and the `manifest.yaml` reader."""
