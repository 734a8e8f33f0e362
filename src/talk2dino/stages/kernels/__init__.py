"""Fast kernels behind stages; each stage keeps the plain version, which is the oracle of the tests and the fallback."""
