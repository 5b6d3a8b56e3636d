"""A small process that starts the server anew whenever it is lost."""
