"""Features of the frozen encoders: computed once, stored on disk, trained on as often as needed.

Read in this order: options (what to extract), encoders (the frozen models), extraction (images and captions to
features), writer (features to shards), manifest (what a store records about itself), store (shards opened for
training), conversion (the published feature files).
"""
