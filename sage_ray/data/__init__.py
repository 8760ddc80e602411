"""Data: pairs and manifest, splits, decoded cache, augmentation, drawn particles."""
