"""Content-addressed store of stage checkpoints: what trials share is trained once."""
