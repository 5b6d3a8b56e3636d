"""A store and files for renders, as tests of the cluster have them."""

from tests.cluster.conftest import hands, shelf, store_server

__all__ = ["hands", "shelf", "store_server"]
