"""Trained models at work: masks of new images, images of given masks."""
