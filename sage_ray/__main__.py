"""`python -m sage_ray` is `sage-ray`."""

from sage_ray.terminal.cli import main

if __name__ == "__main__":
    main()
