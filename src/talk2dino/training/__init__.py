"""Alignment: captions -> features -> store -> psi. Read in that order: captions, extract, store, heads, loss, fit."""
