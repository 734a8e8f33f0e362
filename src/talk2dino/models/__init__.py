"""The networks: frozen vision and text encoders, and the projection between their spaces."""
