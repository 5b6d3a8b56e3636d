"""Messages and services of version 1, generated from the `.proto` files beside them by `make protos`."""
