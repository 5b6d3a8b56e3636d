"""A tiny model that makes its video two latent frames at a time, and remembers."""

import shutil

import yaml

MEMORY = {"local": 4, "sink": 1, "switch": "recache", "switch_frames": 4}


def write_tiny_stream(source, folder, *, memory=MEMORY):
    """Make it of a tiny text-to-video checkpoint; returns the folder."""
    shutil.copytree(source, folder)
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["chunking"] = {"latent_frames": 2}
    manifest["schedule"] = {"solver": "x0_renoise", "timesteps": [1000, 500], "shift": 5.0}
    manifest["guidance"] = {"scale": 1.0}
    manifest["memory"] = dict(memory)
    path.write_text(yaml.safe_dump(manifest))
    return folder
