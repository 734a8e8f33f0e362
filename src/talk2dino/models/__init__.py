"""The networks: a frozen vision tower, a frozen text tower, and the projection from text to vision.

Read in this order:

    catalog      the named models
    loading      a name, folder or hub id to the parts of a model; hub finds files, config reads config.json
    parts        the parts of a model: do they fit together?
    weights      tensors from and to files; refuses values that no model has
    vit          the transformer of all towers (positions: what depends on the image's size)
    checkpoint   original key names to towers; hub_towers: the hub's (layouts: both ways, keymaps: the tables)
    preprocess   images to pixels        vision       pixels to patch features and attention (fused: faster on CPUs)
    tokenizer    texts to token ids      text         texts to embeddings (templates, text_cache)
    projection   psi, from text embeddings to patch features
    fingerprint  which weights are these
    saving       a model back to a folder or to the hub
"""
