"""The networks: frozen vision and text encoders, and the mapping between their spaces."""
