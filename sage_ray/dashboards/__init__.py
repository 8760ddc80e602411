"""What does a browser see of a home while its studies run? Servers on loopback; trials are read, not written."""
