"""Scores on images that a model has not seen: the locked test, its ledger, and tables of test scores."""
