"""What touches the outside: Ray, files, settings, the command line."""
