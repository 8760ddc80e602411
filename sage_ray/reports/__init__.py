"""Reports: what a study found, as one page that explains itself."""
