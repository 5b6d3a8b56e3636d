"""The service as a Ray Serve application: thin adapters around the gateway and the engines."""
