"""Search: a YAML file to a typed space, its cost before it runs, and a stateless driver over Ray Tune and Optuna."""
