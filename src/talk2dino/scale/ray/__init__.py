"""Jobs on a Ray cluster. The only folder that imports Ray."""
