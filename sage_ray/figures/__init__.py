"""The figures of a study, for its report, for papers and for notebooks."""
