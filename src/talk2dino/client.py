"""A client for the service of ``talk2dino serve``; needs nothing but the standard library."""
