"""Scores of predicted masks: what each is (`definitions`), and how it is computed."""
