"""The addresses of the service, version 1."""
