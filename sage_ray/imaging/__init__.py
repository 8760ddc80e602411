"""What travels inside a registered model, and pictures: the model, tiles, particles, drawing, large rasters."""
