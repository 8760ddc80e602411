"""From recorded runs to registered models, and what is made with them."""
