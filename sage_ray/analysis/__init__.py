"""Tables and figures of recorded studies: the library behind the scripts in analysis/; neither torch nor ray."""
