"""Losses: segmentation, adversarial, perceptual, and the differentiable augmentation before discriminators."""
